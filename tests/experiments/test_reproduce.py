"""The table of paper numbers: its rows, its verdicts, what is recorded, and runs that are cut short."""

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data
from dlvm_jax.models import density
from dlvm_jax.train import checkpoint, loop
from dlvm_jax.train.run import RunFolder, manifest
from experiments import (
    common,
    diffusion,
    diffusion_report,
    diffusion_setup,
    flow_density,
    flow_energy,
    flow_energy_report,
    flow_energy_setup,
    flow_report,
    ppca,
    reproduce,
    vae,
    vae_report,
    vae_setup,
)
from experiments.papers import pieces, recipes
from experiments.papers.registry import Measured
from tests.experiments.common import folders, row_of


@pytest.fixture
def toy(monkeypatch):
    def put(*rows):
        monkeypatch.setattr(reproduce, "every_row", lambda: {row.name: row for row in rows})

    return put


def test_a_row_is_recorded_with_all_that_tells_what_it_is(tmp_path, toy, capsys):
    toy(row_of(0.5))
    reproduce.run(reproduce.Run(("toy",), **folders(tmp_path)))
    record = json.loads((tmp_path / "records" / "toy.json").read_text())
    assert (record["value"], record["standard_error"], record["seeds"]) == (0.5, 0.25, [3])
    assert {"commit", "devices", "packages", "recorded", "cpu_count"} <= set(record) and record[
        "seconds"
    ] >= 0
    assert "0.50 ± 0.25, published 1: missed" in capsys.readouterr().out
    reproduce.show(reproduce.List(**folders(tmp_path)))
    assert "missed" in capsys.readouterr().out
    toy(row_of(), dataclasses.replace(row_of(), name="other"))
    reproduce.table(
        reproduce.Table(
            records=tmp_path / "records", out=tmp_path / "RESULTS.md", readme=tmp_path / "README.md"
        )
    )
    table = (tmp_path / "RESULTS.md").read_text()
    assert "| toy | a number | 1 | 0.50 ± 0.25 | missed | - |" in table
    assert "| other | a number | 1 | | not run | |" in table
    assert "0 agree, 0 reproduced, 0 better, 1 missed, 0 measured), 1 are not run." in table


def test_a_quick_row_is_labelled_and_not_recorded(tmp_path, toy, capsys):
    toy(row_of())
    reproduce.run(reproduce.Run(("toy",), quick=True, **folders(tmp_path)))
    assert "QUICK" in capsys.readouterr().out
    assert not (tmp_path / "records").exists()


def test_unfinished_rows_come_the_quickest_first(tmp_path, toy):
    order = []
    make = lambda name, minutes: dataclasses.replace(  # noqa: E731
        row_of(),
        name=name,
        minutes=minutes,
        run=lambda *_: order.append(name) or Measured(1, 0, {"seeds": []}),
    )
    rows = make("slow", 9), make("never", None), make("fast", 1), make("known", 2)
    toy(*rows)
    reproduce.run(reproduce.Run(("known",), **folders(tmp_path)))
    reproduce.run(reproduce.Run(**folders(tmp_path)))
    assert order == ["known", "fast", "slow"]


def test_a_time_limit_stops_whatever_runs_and_is_then_forgotten(tmp_path, toy, capsys):
    def forever(folder, quick):
        while True:
            time.sleep(0.01)

    toy(row_of(run=forever))
    before = signal.getsignal(signal.SIGTERM)
    reproduce.run(reproduce.Run(("toy",), minutes=0.01, **folders(tmp_path)))
    assert "the 0.01 minutes are over; finished: nothing yet" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before and not any((tmp_path / "records").iterdir())


def test_bad_input_is_refused(tmp_path, toy):
    toy(row_of())
    with pytest.raises(ValueError, match="there is no row 'nothing'; the rows are toy"):
        reproduce.run(reproduce.Run(("nothing",), **folders(tmp_path)))
    for minutes in (-1, 0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"--minutes must be above 0, got {minutes}"):
            reproduce.run(reproduce.Run(("toy",), minutes=minutes, **folders(tmp_path)))
    for command in (reproduce.List(records=tmp_path / "none"), reproduce.Table(records=tmp_path / "none")):
        with pytest.raises(ValueError, match="none is no folder; name the one that `run` writes"):
            reproduce.main(command)
    with pytest.raises(ValueError, match="the row was not begun; start it with `run toy`"):
        reproduce.pack(reproduce.Pack("toy", runs=tmp_path / "runs"))
    with pytest.raises(ValueError, match="holds no pieces"):
        reproduce.unpack(reproduce.Unpack(tmp_path, runs=tmp_path / "runs"))


def test_a_file_that_is_no_record_is_named(tmp_path, toy):
    """And not taken for a row that is not run, or for another row's value."""
    toy(row_of())
    path = tmp_path / "records" / "toy.json"
    path.parent.mkdir()
    table = reproduce.Table(records=path.parent, out=tmp_path / "RESULTS.md", readme=tmp_path / "README.md")
    commands = (reproduce.List(**folders(tmp_path)), table, reproduce.Run(**folders(tmp_path)))
    for damaged in ('{"row": "toy", "va', "{}", "[]", '{"row": "other", "value": 1}', '{"row": "toy"}'):
        path.write_text(damaged)
        for command in commands:
            with pytest.raises(ValueError, match=r"toy\.json is no record of the row toy; restore it, or"):
                reproduce.main(command)


def test_records_without_a_row_are_told(tmp_path, toy, capsys):
    toy(row_of())
    reproduce.run(reproduce.Run(("toy",), **folders(tmp_path)))
    toy(dataclasses.replace(row_of(), name="renamed"))
    out = {"out": tmp_path / "RESULTS.md", "readme": tmp_path / "README.md"}
    reproduce.table(reproduce.Table(records=tmp_path / "records", **out))
    assert "left out, as no row has their names: toy" in capsys.readouterr().out


def test_rows_for_an_accelerator_come_last_where_there_is_one(tmp_path, toy, monkeypatch):
    rows = [dataclasses.replace(row_of(), name=name, minutes=m) for name, m in (("gpu", None), ("cpu", 2))]
    toy(*rows)
    order, compute = [], lambda row, config: order.append(row.name)
    monkeypatch.setattr(reproduce, "_compute", compute)
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        reproduce.run(reproduce.Run(**folders(tmp_path)))
    assert order == ["cpu", "cpu", "gpu"]


def test_ctrl_c_is_not_the_end_of_the_time(tmp_path, toy):
    def stopped(folder, quick):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    toy(row_of(run=stopped))
    with pytest.raises(loop.Interrupted):
        reproduce.run(reproduce.Run(("toy",), minutes=5, **folders(tmp_path)))


def test_a_row_that_fails_does_not_stop_the_others(tmp_path, toy, capsys):
    def fail(folder, quick):
        raise ValueError("no such data;\n  bring them")

    toy(dataclasses.replace(row_of(run=fail), name="bad"), row_of())
    with pytest.raises(ValueError, match="these rows failed: bad"):
        reproduce.run(reproduce.Run(("bad", "toy"), **folders(tmp_path)))
    assert "error: bad: no such data; bring them" in capsys.readouterr().err
    assert (tmp_path / "records" / "toy.json").exists()


def test_a_value_that_is_no_number_is_recorded_as_a_miss(tmp_path, toy, capsys):
    toy(row_of(float("nan")))
    reproduce.run(reproduce.Run(("toy",), **folders(tmp_path)))
    assert json.loads((tmp_path / "records" / "toy.json").read_text())["value"] is None
    assert "nan, published 1: missed" in capsys.readouterr().out
    reproduce.table(
        reproduce.Table(
            records=tmp_path / "records", out=tmp_path / "RESULTS.md", readme=tmp_path / "README.md"
        )
    )
    assert "| nan | missed |" in (tmp_path / "RESULTS.md").read_text()


def test_a_record_is_of_the_run_and_of_the_row_as_it_was(tmp_path, toy):
    """Of the commit and machine that evaluated and of those that trained; a row that says something else later is marked."""
    folder = tmp_path / "runs" / "toy"
    folder.mkdir(parents=True)
    first = {"commit": "abc", "cpu_count": 64, "devices": ["H200"], "packages": {"jax": "1"}}
    (folder / "manifest.json").write_text(json.dumps({**manifest(), "before": [first]}))
    toy(row_of())
    reproduce.run(reproduce.Run(("toy",), **folders(tmp_path)))
    toy(row_of(recipe="Another."))
    reproduce.table(
        reproduce.Table(
            records=tmp_path / "records", out=tmp_path / "RESULTS.md", readme=tmp_path / "README.md"
        )
    )
    table = (tmp_path / "RESULTS.md").read_text()
    assert "None. None. Tolerance 0.1. **The row has been changed since.**" in table
    now = manifest()
    told = f"{now['cpu_count']} cores, {now['devices'][0]}; jax {now['packages']['jax']}; {now['commit']}"
    assert f"{told}; begun or trained at abc on H200." in table


def test_a_finished_run_of_other_settings_is_not_taken(tmp_path):
    """And one whose row was not given a number, which the script filled in, is."""
    (tmp_path / "config.json").write_text(json.dumps({"latent_dim": [2], "steps": 7}))
    (tmp_path / "result.json").write_text("{}")
    assert common.carried_out(ppca, ppca.Config(latent_dim=(2,), out=tmp_path)) == {}
    with pytest.raises(ValueError, match=r"is of latent_dim \[2\], not \[3\]; choose another folder"):
        common.carried_out(ppca, ppca.Config(latent_dim=(3,), out=tmp_path))


def test_a_finished_run_of_something_that_the_row_leaves_out_is_not_taken(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eval_limit": 5}))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="is of eval_limit 5, not None"):
        common.carried_out(vae, vae_setup.Config(out=tmp_path))


TEN = {"eval_limit": 10, "ode_examples": 10}
REPORTED = [  # script, its shortest run, what writes the report
    (flow_energy, flow_energy_setup.Config(steps=2, eval_samples=50), (flow_energy_report, "write")),
    (ppca, ppca.Config(latent_dim=(2,)), (ppca, "_report")),
    (vae, vae_setup.Config(steps=2, latent_dim=2, eval_limit=10, eval_samples=2), (vae_report, "write")),
    (
        diffusion,
        diffusion_setup.Config(data="eight_gaussians", steps=2, warm_up=1, **TEN),
        (diffusion_report, "write"),
    ),
    (flow_density, flow_density.Config(steps=2, depth=1), (flow_report, "write")),
]


@pytest.mark.parametrize(
    "script, config, writer",
    [REPORTED[0], *(pytest.param(*row, marks=pytest.mark.slow) for row in REPORTED[1:])],
)
def test_a_run_without_its_report_is_not_finished(tmp_path, monkeypatch, script, config, writer):
    """A stop while pictures are drawn is made good by the next call."""
    config = dataclasses.replace(config, out=tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(*writer, stop)
        common.carried_out(script, config)
    assert not common.finished(config)
    common.carried_out(script, config)
    assert (tmp_path / "report.md").exists() and common.finished(config)


def test_a_row_that_breaks_does_not_stop_the_others(tmp_path, toy, capsys):
    def fail(folder, quick):
        raise KeyError("log_likelihood")

    toy(dataclasses.replace(row_of(run=fail), name="bad"), row_of())
    with pytest.raises(ValueError, match="these rows failed: bad"):
        reproduce.run(reproduce.Run(("bad", "toy"), **folders(tmp_path)))
    assert "Traceback" in capsys.readouterr().err and (tmp_path / "records" / "toy.json").exists()


def test_what_does_not_heed_the_signal_is_left_in_time(tmp_path):
    """As a long round of training, which looks at signals only when it is over."""
    program = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "from experiments import reproduce\n"
        "from experiments.papers.registry import Row\n"
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
    now = common._manifest(tmp_path)
    assert "before" not in now
    (tmp_path / "manifest.json").write_text(json.dumps(now))
    assert common._manifest(tmp_path) == now
    first = now | {"commit": "abc", "devices": ["H200"]}
    (tmp_path / "manifest.json").write_text(json.dumps(first))
    second = common._manifest(tmp_path)
    assert second == now | {"before": [first]}
    (tmp_path / "manifest.json").write_text(json.dumps(second | {"commit": "def"}))
    assert [kept["commit"] for kept in common._manifest(tmp_path)["before"]] == ["abc", "def"]


def test_steps_of_a_record_are_those_taken_and_not_those_planned(tmp_path):
    for name, content in (
        ("config", {"out": "x", "steps": 1000}),
        ("cost", {"parameters": 7, "steps": 1000}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    RunFolder(tmp_path).log(400, {"bound": -1.0}, 2.5)
    told = recipes.details_of(tmp_path)
    assert (told["steps"], told["training_seconds"]) == (400, 2.5) and told["settings"] == {"steps": 1000}


def test_a_warm_up_that_training_ends_before_is_told_and_one_that_fits_is_not(recwarn):
    common.warn_of_unfinished("the warm-up", 200, 200)
    assert not recwarn
    common.warn_of_unfinished("the warm-up", 300, 200)
    told = "the warm-up of 300 steps does not end within the 200 of training"
    assert [str(warning.message) for warning in recwarn] == [told]


def test_pieces_hold_the_whole_run_and_a_missing_one_is_noticed(tmp_path, toy, monkeypatch):
    toy(row_of())
    monkeypatch.setattr(pieces, "PIECE", 1000)
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
    monkeypatch.setattr(pieces, "WHOLE", 1000)
    folder.mkdir()
    (folder / "state").write_bytes(content)
    with pytest.raises(ValueError, match="takes 0 MB, more than 0"):
        reproduce.pack(reproduce.Pack("toy", out=tmp_path / "pieces", runs=tmp_path / "runs"))


@pytest.mark.slow
def test_a_row_cut_short_at_random_gives_the_same_result(tmp_path):
    """The command of a user, killed and continued until it is done, against one that nobody disturbed."""
    program = (
        "import experiments.papers.tipping1999 as module\n"
        "from experiments import common, reproduce\n"
        "from experiments.papers.recipes import vae_run\n"
        "from experiments.papers.registry import Row\n"
        "run = vae_run(latent_dim=2, hidden=(64,), steps=5000, every=20, eval_samples=400)\n"
        "module.ROWS = [Row('toy', 's', 'w', None, 'c', 'higher', 1.0, 'r', 'e', run, 1)]\n"
        "import sys; from pathlib import Path\n"
        "out = Path(sys.argv[1])\n"
        "command = reproduce.Run(('toy',), float(sys.argv[2]), runs=out / 'runs', records=out / 'records')\n"
        "common.main(reproduce.main, command)\n"
    )

    def start(name, minutes):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-c", program, str(tmp_path / name), str(minutes)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert start("whole", 10).wait() == 0
    whole = json.loads((tmp_path / "whole" / "records" / "toy.json").read_text())
    record, waits, cuts = tmp_path / "cut" / "records" / "toy.json", random.Random(0), 0
    while not record.exists():
        if cuts % 2:  # every other time it stops by itself
            process = start("cut", 10)
            try:
                process.wait(waits.uniform(5, 12))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        else:
            assert start("cut", 0.3).wait() == 0
        cuts += 1
        assert cuts < 40
    assert cuts > 1  # at least one start was not the last
    cut = json.loads(record.read_text())
    for name in ("value", "standard_error", "elbo", "protocol_hash", "operations_per_step"):
        assert cut[name] == whole[name], name


class Stop(BaseException):
    pass


def test_an_evaluation_goes_on_after_a_kill(tmp_path, monkeypatch):
    """From the batches in its folder; those that are damaged, or of other parameters, are computed again."""
    dataset = data.load("digits")
    calls = []

    def log_prob(params, key, x, context=None):
        jax.debug.callback(lambda: calls.append(1))
        return params * x.sum((-1, -2, -3))

    flat = density.Density(None, None, log_prob, "exact", True)
    run = lambda params, name: common.evaluate_with_progress(  # noqa: E731
        flat, params, dataset.test, dataset, 0, 1, tmp_path / name, batch_size=100
    )
    whole = run(jnp.float32(1), "whole")
    update = common.tqdm.update

    def stop(bar, count):
        if bar.n + count >= 300:
            raise Stop
        update(bar, count)

    monkeypatch.setattr(common.tqdm, "update", stop)
    with pytest.raises(Stop):
        run(jnp.float32(1), "cut")
    monkeypatch.setattr(common.tqdm, "update", update)
    (folder,) = (tmp_path / "cut").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["0.npz", "1.npz", "2.npz"]
    (folder / "1.npz").write_bytes(b"")
    calls.clear()
    again = run(jnp.float32(1), "cut")
    jax.effects_barrier()
    np.testing.assert_array_equal(again.per_example, whole.per_example)
    assert len(calls) == len(range(0, len(dataset.test), 100)) - 2
    assert run(jnp.float32(2), "cut").log_likelihood == pytest.approx(2 * whole.log_likelihood)
