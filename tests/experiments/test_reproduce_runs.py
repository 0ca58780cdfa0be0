"""Runs of rows: finished ones, those cut short, and those carried to another machine in pieces."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.train import checkpoint
from dlvm_jax.train.run import RunFolder, updated_manifest
from experiments import run as common
from experiments.diffusion import __main__ as diffusion
from experiments.flow import __main__ as flow
from experiments.flow import energy
from experiments.ppca import __main__ as ppca
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce import archive, readers
from experiments.vae import __main__ as vae
from tests.experiments.common import row_of


def test_a_finished_run_of_other_settings_is_not_taken(tmp_path):
    """And one whose row was not given a number, which the script filled in, is."""
    (tmp_path / "config.json").write_text(json.dumps({"latent_dim": [2], "steps": 7}))
    (tmp_path / "result.json").write_text("{}")
    assert common.carried_out(ppca.run, ppca.Config(latent_dim=(2,), out=tmp_path)) == {}
    with pytest.raises(ValueError, match=r"is of latent_dim \[2\], not \[3\]; choose another folder"):
        common.carried_out(ppca.run, ppca.Config(latent_dim=(3,), out=tmp_path))


def test_a_finished_run_of_something_that_the_row_leaves_out_is_not_taken(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eval_limit": 5}))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="is of eval_limit 5, not None"):
        common.carried_out(vae.run, vae.Config(out=tmp_path))


TEN = {"eval_limit": 10, "ode_examples": 10}
REPORTED = [  # script, its shortest run
    (energy, energy.Config(steps=2, eval_samples=50)),
    (ppca, ppca.Config(latent_dim=(2,))),
    (vae, vae.Config(steps=2, latent_dim=2, eval_limit=10, eval_samples=2)),
    (diffusion, diffusion.Config(data="eight_gaussians", steps=2, warm_up=1, width=8, depth=1, **TEN)),
    (flow, flow.Config(steps=2, depth=1)),
]


@pytest.mark.slow
@pytest.mark.parametrize("script, config", REPORTED)
def test_a_run_without_its_report_is_not_finished(tmp_path, monkeypatch, short_solutions, script, config):
    """A stop while the report is written is made good by the next call."""
    config, write = dataclasses.replace(config, out=tmp_path), Path.write_text

    def stop(path, text):
        if path.name == "report.md":
            raise KeyboardInterrupt
        return write(path, text)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Path, "write_text", stop)
        common.carried_out(script.run, config)
    assert not common.finished(config)
    common.carried_out(script.run, config)
    assert (tmp_path / "report.md").exists() and common.finished(config)


def test_what_does_not_heed_the_signal_is_left_in_time(tmp_path):
    """As many steps between two evaluations, after which training looks at signals."""
    program = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "from experiments.reproduce import __main__ as reproduce\n"
        "from experiments.reproduce.registry import Row\n"
        "def deaf(folder, quick):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    time.sleep(60)\n"
        "row = Row('toy', 's', 'w', None, 'c', 'higher', 1.0, 'r', 'e', deaf)\n"
        "reproduce.every_row = lambda: {'toy': row}\n"
        "reproduce.run(reproduce.Run(('toy',), 0.05, runs=Path(sys.argv[1]), records=Path(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    left = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert left.returncode == 0 and "the 0.05 minutes are over; finished: nothing yet" in left.stdout


def test_pieces_hold_the_newest_and_the_best_checkpoint_of_each_run_of_a_row(tmp_path, toy):
    """Of a pair, too, whose second run lies within the first."""
    toy(row_of())
    folder = tmp_path / "runs" / "toy"
    for root in (folder, folder / "second"):
        kept = checkpoint.Checkpoints(root / "checkpoints", {})
        for step, score in ((1, 0.5), (2, 0.1), (3, 0.3), (4, 0.2)):
            kept.save(step, {"w": jnp.full(3, float(step))}, score)
        kept.close()
        (root / "samples.png").write_bytes(b"a picture")
    reproduce.pack(reproduce.Pack("toy", out=tmp_path / "pieces", runs=tmp_path / "runs"))
    shutil.rmtree(folder)
    reproduce.unpack(reproduce.Unpack(tmp_path / "pieces", runs=tmp_path / "runs"))
    for root in (folder, folder / "second"):
        kept = checkpoint.Checkpoints(root / "checkpoints", {})
        assert kept.steps() == [2, 4] and kept.best_step() == 2
        assert kept.restore({"w": jnp.zeros(3)})[1]["w"][0] == 4
        kept.close()
        assert not (root / "samples.png").exists()


def test_the_manifest_keeps_what_began_a_run(tmp_path):
    now = updated_manifest(tmp_path)
    assert "before" not in now
    (tmp_path / "manifest.json").write_text(json.dumps(now))
    assert updated_manifest(tmp_path) == now
    first = now | {"commit": "abc", "devices": ["H200"]}
    (tmp_path / "manifest.json").write_text(json.dumps(first))
    second = updated_manifest(tmp_path)
    assert second == now | {"before": [first]}
    (tmp_path / "manifest.json").write_text(json.dumps(second | {"commit": "def"}))
    assert [kept["commit"] for kept in updated_manifest(tmp_path)["before"]] == ["abc", "def"]


def test_steps_of_a_record_are_those_taken_and_not_those_planned(tmp_path):
    for name, content in (
        ("config", {"out": "x", "steps": 1000}),
        ("cost", {"parameters": 7, "steps": 1000}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    RunFolder(tmp_path).log(400, {"bound": -1.0}, 2.5)
    details = readers.details_of(tmp_path)
    assert (details["steps"], details["training_seconds"]) == (400, 2.5)
    assert details["settings"] == {"steps": 1000}


def test_pieces_hold_the_whole_run_and_a_missing_one_is_noticed(tmp_path, toy, monkeypatch):
    toy(row_of())
    monkeypatch.setattr(archive, "PIECE", 1000)
    folder = tmp_path / "runs" / "toy"
    folder.mkdir(parents=True)
    content = np.random.default_rng(0).bytes(5000)
    (folder / "state").write_bytes(content)
    reproduce.pack(reproduce.Pack("toy", out=tmp_path / "pieces", runs=tmp_path / "runs"))
    found = sorted((tmp_path / "pieces").iterdir())
    assert len(found) > 5 and max(piece.stat().st_size for piece in found) <= 1000
    with pytest.raises(ValueError, match="already holds a run"):
        reproduce.unpack(reproduce.Unpack(tmp_path / "pieces", runs=tmp_path / "runs"))
    shutil.rmtree(folder)
    reproduce.unpack(reproduce.Unpack(tmp_path / "pieces", runs=tmp_path / "runs"))
    assert (folder / "state").read_bytes() == content
    shutil.rmtree(folder)
    found[2].unlink()
    with pytest.raises(
        ValueError, match=f"the {len(found) - 1} pieces in .* are not the {len(found)} of one run"
    ):
        reproduce.unpack(reproduce.Unpack(tmp_path / "pieces", runs=tmp_path / "runs"))
    assert not folder.exists()
    monkeypatch.setattr(archive, "WHOLE", 1000)
    folder.mkdir()
    (folder / "state").write_bytes(content)
    with pytest.raises(ValueError, match="takes 0 MB, more than 0"):
        reproduce.pack(reproduce.Pack("toy", out=tmp_path / "pieces", runs=tmp_path / "runs"))


@pytest.mark.slow
def test_a_row_cut_short_at_random_gives_the_same_result(tmp_path):
    """The command of a user, killed and continued until it is done, against one that nobody disturbed."""
    program = (
        "import experiments.checks.ppca as module\n"
        "from experiments import run as common\n"
        "from experiments.reproduce import __main__ as reproduce\n"
        "from experiments.reproduce.readers import vae_run\n"
        "from experiments.reproduce.registry import Row\n"
        "run = vae_run(latent_dim=2, hidden=(64,), steps=1500, eval_every=20, eval_samples=100)\n"
        "module.ROWS = [Row('toy', 's', 'w', None, 'c', 'higher', 1.0, 'r', 'e', run, 1)]\n"
        "import sys; from pathlib import Path\n"
        "out = Path(sys.argv[1])\n"
        "command = reproduce.Run(('toy',), float(sys.argv[2]), runs=out / 'runs', records=out / 'records')\n"
        "common.guarded(lambda: reproduce.main(command))\n"
    )

    def start(name, minutes):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-c", program, str(tmp_path / name), str(minutes)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    began = time.monotonic()
    assert start("whole", 10).wait() == 0
    took = time.monotonic() - began  # cuts are shares of it, on a loaded machine too
    whole = json.loads((tmp_path / "whole" / "records" / "toy.json").read_text())
    record, waits, cuts = tmp_path / "cut" / "records" / "toy.json", random.Random(0), 0
    while not record.exists():
        if cuts % 2:  # every other time it stops by itself
            process = start("cut", 10)
            try:
                process.wait(waits.uniform(0.5, 0.9) * took)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        else:
            assert start("cut", 0.6 * took / 60).wait() == 0
        cuts += 1
        assert cuts < 40
    assert cuts > 1  # at least one start was not the last
    cut = json.loads(record.read_text())
    for name in ("value", "standard_error", "elbo", "protocol_hash", "flops_per_step"):
        assert cut[name] == whole[name], name
