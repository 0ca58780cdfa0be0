"""Tables: every row is a possible model, and a table that was begun goes on."""

import json

import numpy as np
import pytest

from experiments.tables import __main__ as tables
from experiments.vae import __main__ as vae


@pytest.mark.parametrize("name", tables.TABLES)
def test_rows_of_every_table_are_possible_and_share_their_budget(name, tmp_path):
    config = tables.Config(name)
    rows = [
        tables.row_config(tables.TABLES[name], config, tmp_path, label) for label in tables.TABLES[name].rows
    ]
    for row in rows:
        vae.check(row)
    assert len({(row.epochs, row.batch_size, row.data, row.seeds) for row in rows}) == 1
    assert len({row.out for row in rows}) == len(rows)


@pytest.mark.slow
def test_a_table_is_printed_with_errors_and_continued(tmp_path, monkeypatch, capsys):
    shared = {"latent_dim": 2, "hidden": (16,), "eval_samples": 5}
    small = tables.Table(
        "Two rows",
        shared,
        {"one": {}, "two, vamp": {"prior": "vamp", "components": 5}},
        (("two, vamp", "one"),),
    )
    monkeypatch.setitem(tables.TABLES, "mnist-priors", small)
    config = tables.Config("mnist-priors", tmp_path / "table", epochs=2, eval_limit=50)
    tables.run(config)
    report = (tmp_path / "table" / "report.md").read_text()
    result = json.loads((tmp_path / "table" / "result.json").read_text())
    rows, ((_, _, difference, error),) = result["rows"], result["contrasts"]
    assert list(rows) == ["one", "two, vamp"] and all(row["examples"] == 50 for row in rows.values())
    assert f"{rows['one']['log_likelihood']:.2f} ± {rows['one']['standard_error']:.2f}" in report
    both = [np.load(tmp_path / "table" / row / "nats.npy")[0] for row in ("one", "two-vamp")]
    assert np.isclose(difference, both[1].mean() - both[0].mean())
    assert np.isclose(error, np.std(both[1] - both[0]) / np.sqrt(49))
    assert difference == pytest.approx(rows["two, vamp"]["log_likelihood"] - rows["one"]["log_likelihood"])
    assert f"| {difference:+.2f} ± {error:.2f} |" in report
    trained = (tmp_path / "table" / "one" / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    tables.run(config)
    assert (tmp_path / "table" / "one" / "result.json").stat().st_mtime_ns == trained
    assert report in capsys.readouterr().out and "; one seed and 2 epochs a row." in report


@pytest.mark.parametrize(("name", "there"), [("epochs", 3), ("eval_limit", 10)])
def test_rows_of_another_budget_are_refused(name, there, tmp_path, monkeypatch):
    """Before anything is trained or written."""
    small = tables.Table("Two rows", {}, {"one": {}, "two": {}}, ())
    monkeypatch.setitem(tables.TABLES, "mnist-priors", small)
    monkeypatch.setattr(vae, "run", lambda row: pytest.fail("trained"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "result.json").write_text("{}")
    (tmp_path / "two" / "config.json").write_text(json.dumps({"epochs": 2, "eval_limit": None, name: there}))
    with pytest.raises(ValueError, match=f"two is of {name} {there}, not .*; choose another folder"):
        tables.run(tables.Config("mnist-priors", tmp_path, epochs=2))
    assert not (tmp_path / "manifest.json").exists()
