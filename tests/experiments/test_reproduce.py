"""The table of paper numbers: its rows, its verdicts, what is recorded, and runs that are cut short."""

import dataclasses
import json
import math
import os
import random
import re
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
from dlvm_jax.train import loop
from experiments import common, ppca, reproduce
from experiments.papers import recipes
from experiments.papers.registry import Measured, Row, every_row, verdict

ROWS = every_row()


def row_of(value=1.0, published=1.0, **options):
    told = {"source": "Nobody 2020, table 1", "what": "a number", "confirmed": "nowhere", "better": "higher"}
    told |= {"tolerance": 0.1, "recipe": "None.", "evaluation": "None.", "minutes": 1}
    told["run"] = lambda folder, quick: Measured(value, 0.25, {"seeds": [3], "quick": quick})
    return Row(name="toy", published=published, **(told | options))


def folders(tmp_path):
    return {"runs": tmp_path / "runs", "records": tmp_path / "records"}


@pytest.fixture
def toy(monkeypatch):
    def put(*rows):
        monkeypatch.setattr(reproduce, "every_row", lambda: {row.name: row for row in rows})

    return put


@pytest.mark.parametrize(
    "better, value, expected",
    [
        ("higher", 1.05, "reproduced"),
        ("higher", 1.5, "better"),
        ("higher", 0.5, "missed"),
        ("lower", 1.5, "missed"),
        ("lower", 0.5, "better"),
        ("same", 1.5, "missed"),
        ("same", 0.5, "missed"),
        ("higher", float("nan"), "missed"),
    ],
)
def test_verdicts(better, value, expected):
    assert verdict(row_of(better=better), value) == expected


def test_without_a_published_value_a_number_is_only_measured():
    assert verdict(row_of(published=None), 3.0) == "measured"


@pytest.mark.parametrize("name", ROWS)
def test_every_row_says_what_it_is(name):
    row = ROWS[name]
    assert row.name == name and name == name.lower() and " " not in name
    for field in ("source", "what", "confirmed", "recipe", "evaluation"):
        assert getattr(row, field).strip()
    assert row.tolerance > 0
    assert row.published is not None or row.confirmed.startswith("nowhere")


def test_the_written_tables_are_those_of_the_records(tmp_path):
    """RESULTS.md is as `table` writes it, and the README's rows and counts are its."""
    reproduce.table(reproduce.Table(out=tmp_path / "RESULTS.md"))
    results = (tmp_path / "RESULTS.md").read_text()
    assert (reproduce.HERE / "RESULTS.md").read_text() == results
    section = (reproduce.HERE.parent / "README.md").read_text().split("## Paper numbers")[1].split("\n## ")[0]
    shown = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(shown) > 10 and set(shown) <= set(results.splitlines())
    rows, *counts = re.search(
        r"Of (\d+) rows\n(\d+) reproduced, (\d+) better, (\d+) missed, (\d+) measured, (\d+) not", results
    ).groups()
    told = re.search(
        r"Of (\d+) rows (\d+) are recorded: (\d+) reproduced, (\d+) better, (\d+) missed, and (\d+) measured",
        section,
    ).groups()
    assert told == (rows, str(sum(map(int, counts[:4]))), *counts[:4])


def test_two_rows_of_one_name_are_refused(monkeypatch):
    from experiments.papers import lucas2019

    monkeypatch.setattr(lucas2019, "ROWS", [ROWS["linear-vae-freyfaces"]] * 2)
    with pytest.raises(ValueError, match=r"two rows .* are named 'linear-vae-freyfaces'"):
        every_row()


def test_a_row_is_recorded_with_all_that_tells_what_it_is(tmp_path, toy, capsys):
    toy(row_of(0.5))
    reproduce.run(reproduce.Run(("toy",), **folders(tmp_path)))
    record = json.loads((tmp_path / "records" / "toy.json").read_text())
    assert (record["value"], record["standard_error"], record["seeds"]) == (0.5, 0.25, [3])
    assert {"commit", "devices", "packages", "recorded", "cpu_count"} <= set(record)
    assert "0.50 ± 0.25, published 1: missed" in capsys.readouterr().out
    reproduce.show(reproduce.List(**folders(tmp_path)))
    assert "missed" in capsys.readouterr().out
    toy(row_of(), dataclasses.replace(row_of(), name="other"))
    reproduce.table(reproduce.Table(**folders(tmp_path), out=tmp_path / "RESULTS.md"))
    table = (tmp_path / "RESULTS.md").read_text()
    assert "| toy | a number | 1 | 0.50 ± 0.25 | missed | - |" in table
    assert "| other | a number | 1 | | not run | |" in table
    assert "0 reproduced, 0 better, 1 missed, 0 measured, 1 not run" in table


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
    assert signal.getsignal(signal.SIGTERM) == before and not (tmp_path / "records").exists()


def test_bad_input_is_refused(tmp_path, toy):
    toy(row_of())
    with pytest.raises(ValueError, match="there is no row 'nothing'; the rows are toy"):
        reproduce.run(reproduce.Run(("nothing",), **folders(tmp_path)))
    with pytest.raises(ValueError, match="--minutes must be at least 0, got -1"):
        reproduce.run(reproduce.Run(("toy",), minutes=-1, **folders(tmp_path)))
    with pytest.raises(ValueError, match="the row was not begun; start it with `run toy`"):
        reproduce.pack(reproduce.Pack("toy", **folders(tmp_path)))
    with pytest.raises(ValueError, match="holds no pieces"):
        reproduce.unpack(reproduce.Unpack(tmp_path, **folders(tmp_path)))


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
    reproduce.table(reproduce.Table(**folders(tmp_path), out=tmp_path / "RESULTS.md"))
    assert "| nan | missed |" in (tmp_path / "RESULTS.md").read_text()


def test_a_record_is_of_the_run_and_of_the_row_as_it_was(tmp_path, toy):
    """The commit and machine of the run's own manifest; a row that says something else later is marked."""
    folder = tmp_path / "runs" / "toy"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({"commit": "abc", "cpu_count": 64, "devices": ["H200"], "packages": {"jax": "1"}})
    )
    toy(row_of())
    reproduce.run(reproduce.Run(("toy",), **folders(tmp_path)))
    toy(row_of(recipe="Another."))
    reproduce.table(reproduce.Table(**folders(tmp_path), out=tmp_path / "RESULTS.md"))
    table = (tmp_path / "RESULTS.md").read_text()
    assert (
        "None. None. **The row has been changed since.**" in table and "64 cores, H200, jax 1, abc" in table
    )


def test_a_finished_run_of_other_settings_is_not_taken(tmp_path):
    """And one whose row was not given a number, which the script filled in, is."""
    (tmp_path / "config.json").write_text(json.dumps({"latent_dim": [2], "steps": 7}))
    (tmp_path / "result.json").write_text("{}")
    assert common.carried_out(ppca, ppca.Config(latent_dim=(2,), out=tmp_path)) == {}
    with pytest.raises(ValueError, match=r"is of latent_dim \[2\], not \[3\]; choose another folder"):
        common.carried_out(ppca, ppca.Config(latent_dim=(3,), out=tmp_path))


def test_pieces_hold_the_whole_run_and_a_missing_one_is_noticed(tmp_path, toy, monkeypatch):
    toy(row_of())
    monkeypatch.setattr(reproduce, "PIECE", 1000)
    folder = tmp_path / "runs" / "toy"
    folder.mkdir(parents=True)
    content = np.random.default_rng(0).bytes(5000)
    (folder / "state").write_bytes(content)
    reproduce.pack(reproduce.Pack("toy", out=tmp_path / "pieces", **folders(tmp_path)))
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert len(pieces) > 5 and max(piece.stat().st_size for piece in pieces) <= 1000
    with pytest.raises(ValueError, match="already holds a run"):
        reproduce.unpack(reproduce.Unpack(tmp_path / "pieces", **folders(tmp_path)))
    shutil.rmtree(folder)
    reproduce.unpack(reproduce.Unpack(tmp_path / "pieces", **folders(tmp_path)))
    assert (folder / "state").read_bytes() == content
    shutil.rmtree(folder)
    pieces[2].unlink()
    with pytest.raises(
        ValueError, match=f"the {len(pieces) - 1} pieces in .* are not the {len(pieces)} of one run"
    ):
        reproduce.unpack(reproduce.Unpack(tmp_path / "pieces", **folders(tmp_path)))
    assert not folder.exists()
    monkeypatch.setattr(reproduce, "WHOLE", 1000)
    folder.mkdir()
    (folder / "state").write_bytes(content)
    with pytest.raises(ValueError, match="takes 0 MB, more than 0"):
        reproduce.pack(reproduce.Pack("toy", out=tmp_path / "pieces", **folders(tmp_path)))


@pytest.mark.slow
def test_a_vae_row_reads_its_run(tmp_path):
    settings = {
        "latent_dim": 2,
        "hidden": (16,),
        "steps": 40,
        "eval_samples": 4,
        "eval_limit": 30,
        "seeds": (0, 1),
    }
    found = recipes.vae_run(**settings)(tmp_path / "row", False)
    result = json.loads((tmp_path / "row" / "result.json").read_text())
    values = [result["records"][seed]["log_likelihood"] for seed in "01"]
    assert found.value == pytest.approx(np.mean(values))
    assert found.details["deviation_over_seeds"] == pytest.approx(np.std(values, ddof=1))
    nats = np.load(tmp_path / "row" / "nats.npy")
    assert found.standard_error == pytest.approx((nats.std(1, ddof=1) / np.sqrt(30)).mean())
    elbo, bits = (
        recipes.vae_run(quantity, **settings)(tmp_path / "row", False)
        for quantity in ("elbo", "elbo_in_bits")
    )
    assert elbo.value == pytest.approx(np.mean([result["records"][seed]["elbo"] for seed in "01"]))
    assert elbo.value < found.value and elbo.standard_error > 0
    assert bits.value == pytest.approx(-elbo.value / 64 / np.log(2))
    assert bits.standard_error == pytest.approx(elbo.standard_error / 64 / np.log(2))
    units = recipes.vae_run("active_units", **settings)(tmp_path / "row", False)
    assert 0 <= units.value <= 2 and math.isnan(units.standard_error)
    assert found.details["protocol_hash"] == result["records"]["0"]["protocol_hash"]
    encoder, decoder = 64 * 16 + 16 + 16 * 4 + 4, 2 * 16 + 16 + 16 * 64 + 64
    assert found.details["parameters"] == 2 * (encoder + decoder) and found.details["steps"] == 40
    weights = 64 * 16 + 16 * 4 + 2 * 16 + 16 * 64  # three products each, but for the gradient of the images
    assert found.details["operations_per_step"] == 2 * 2 * 100 * (3 * weights - 64 * 16)


@pytest.mark.slow
@pytest.mark.parametrize("name, order", [("ddim", 1), ("edm-heun", 2), ("dpm-multistep-2", 2)])
def test_orders_on_a_network_after_a_short_training(name, order, tmp_path):
    """Any network has them; what is left is the next term of the error."""
    found = ROWS[f"order-{name}-trained"].run(tmp_path, True)
    assert found.value == pytest.approx(order, abs=0.1) and found.standard_error < 0.05


@pytest.mark.slow
def test_rows_of_annealing_and_of_a_difference(tmp_path):
    """Each against the runs that it reads."""
    short = {"latent_dim": 2, "hidden": (16,), "steps": 40, "eval_samples": 4, "eval_limit": 30}
    found = recipes.vae_run("annealing", **short, ais=20, ais_limit=10)(tmp_path / "one", False)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    annealed = float(result["annealed importance sampling"].split("~ ")[1].split(" +-")[0])
    nats = np.load(tmp_path / "one" / "nats.npy")[0]
    assert found.value == pytest.approx(annealed - nats[:10].mean(), abs=0.006)  # two printed digits
    pair = [{**short, "objective": objective, "samples": 3} for objective in ("dreg", "iwae")]
    found = recipes.paired_run(*pair, "iwae-3")(tmp_path / "dreg-3", False)
    dreg, iwae = (np.load(tmp_path / f"{name}-3" / "nats.npy")[0] for name in ("dreg", "iwae"))
    assert found.value == pytest.approx((dreg - iwae).mean()) and found.value != 0
    assert found.standard_error == pytest.approx((dreg - iwae).std(ddof=1) / np.sqrt(30))


@pytest.mark.slow
def test_a_row_cut_short_at_random_gives_the_same_result(tmp_path):
    """The command of a user, killed and continued until it is done, against one that nobody disturbed."""
    program = (
        "import experiments.papers.tipping1999 as module\n"
        "from experiments import common, reproduce\n"
        "from experiments.papers.recipes import vae_run\n"
        "from experiments.papers.registry import Row\n"
        "run = vae_run(latent_dim=2, hidden=(64,), steps=2000, every=20, eval_samples=400)\n"
        "module.ROWS = [Row('toy', 's', 'w', 0.0, 'c', 'higher', 1.0, 'r', 'e', run, 1)]\n"
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
    assert cuts > 2
    cut = json.loads(record.read_text())
    for name in ("value", "standard_error", "elbo", "protocol_hash", "operations_per_step"):
        assert cut[name] == whole[name], name


class Seen(Exception):
    pass


@pytest.mark.parametrize(
    "name", [name for name, row in ROWS.items() if row.run.__module__ == recipes.__name__]
)
@pytest.mark.parametrize("quick", [False, True])
def test_every_run_of_a_row_is_possible(name, quick, tmp_path, monkeypatch):
    """Its script accepts the settings, of the row itself and of its quick version."""

    def check(script, config):
        script.check(config)
        raise Seen

    monkeypatch.setattr(recipes.common, "carried_out", check)
    with pytest.raises(Seen):
        ROWS[name].run(tmp_path, quick)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ppca-freyfaces-5",
        "order-dpm-multistep-3",
        "linear-vae-freyfaces",
        "sphere-moebius-spline-effective",
        "eight-gaussians-flow",
        "eight-gaussians-diffusion",
        "spline-glow-mnist",
        "levels-mnist",
        "cvae-quadrants-3",
        "law-ancestral-large-1000",
        "iwae-5-mnist-2-layers-original-units",
        "normal-posterior-frey-faces",
    ],
)
def test_a_row_of_each_kind_runs(name, tmp_path, capsys):
    """In its quick version, on the real data."""
    if not os.environ.get("DLVM_DATA") and any(part in name for part in ("frey", "mnist", "cvae")):
        pytest.skip("this row needs data: set DLVM_DATA")
    reproduce.run(reproduce.Run((name,), quick=True, **folders(tmp_path)))
    assert "QUICK" in capsys.readouterr().out


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
