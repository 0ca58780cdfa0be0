"""The table of results: its commands, its verdicts, and what is recorded."""

import dataclasses
import json
import math
import os
import signal
import time

import jax
import pytest

from dlvm_jax.train import loop
from dlvm_jax.train.run import manifest
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce import results
from experiments.reproduce.registry import Measured
from tests.experiments.common import folders, row_of


def test_published_results_and_checks_are_counted_and_shown_apart(tmp_path, toy):
    rows = row_of(), row_of(better="same", published="2"), row_of(published=None)
    toy(
        *(
            dataclasses.replace(row, name=name)
            for row, name in zip(rows, ("paper", "law", "toy"), strict=True)
        )
    )
    reproduce.run(reproduce.Run(("paper", "law", "toy"), **folders(tmp_path)))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{results.BEGIN}old\n{results.END}after\n")
    reproduce.table(reproduce.Table(records=tmp_path / "records", out=tmp_path / "RESULTS.md", readme=readme))
    published, checks = (tmp_path / "RESULTS.md").read_text().split("## Checks of our own")[:2]
    assert (
        "Of 1 published results 1 are recorded (1 reproduced, 0 better, 0 missed), 0 are not run."
        in published
    )
    assert "Of 2 checks of our own 2 are recorded (0 agree, 1 measured, 1 missed), 0 are not run." in checks
    for name, there, elsewhere in (("paper", published, checks), ("law", checks, published)):
        assert f"\n| {name} |" in there and f"\n| {name} |" not in elsewhere
    written = readme.read_text()
    assert "Of 1 published results" in written and "Of 2 checks" in written and "old" not in written
    assert written.startswith("before\n") and written.endswith("after\n")


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
    assert "Of 2 published results 1 are recorded (0 reproduced, 0 better, 1 missed), 1 are not run." in table


def test_a_quick_row_is_labelled_and_not_recorded(tmp_path, toy, capsys):
    toy(row_of())
    reproduce.run(reproduce.Run(("toy",), quick=True, **folders(tmp_path)))
    assert "QUICK" in capsys.readouterr().out
    assert not (tmp_path / "records").exists()


def test_unfinished_rows_come_the_quickest_first(tmp_path, toy):
    order = []
    make = lambda name, minutes: dataclasses.replace(
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


def test_records_without_a_row_are_named(tmp_path, toy, capsys):
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
    by = f"{now['cpu_count']} cores, {now['devices'][0]}; jax {now['packages']['jax']}; {now['commit']}"
    assert f"{by}; begun or trained at abc on H200." in table


def test_a_row_that_breaks_does_not_stop_the_others(tmp_path, toy, capsys):
    def fail(folder, quick):
        raise KeyError("log_likelihood")

    toy(dataclasses.replace(row_of(run=fail), name="bad"), row_of())
    with pytest.raises(ValueError, match="these rows failed: bad"):
        reproduce.run(reproduce.Run(("bad", "toy"), **folders(tmp_path)))
    assert "Traceback" in capsys.readouterr().err and (tmp_path / "records" / "toy.json").exists()
