"""Tables: every row is a possible model, and a table that was begun goes on."""

import json

import numpy as np
import pytest

from experiments.tables import __main__ as tables
from experiments.tables import flow_energy
from experiments.tables import vae as vae_tables
from experiments.vae import __main__ as vae

TWO = {"one": {}, "two, vamp": {"prior": "vamp", "components": 5}}


@pytest.mark.parametrize("name", tables.TABLES)
def test_rows_of_every_table_are_possible_and_share_their_data(name, tmp_path):
    rows = tables.row_configs(tables.TABLES[name], tables.Config(name), tmp_path)
    for row in rows.values():
        row.check()
    assert list(rows) == list(tables.TABLES[name].rows)
    assert len({(row.batch_size, row.seeds) for row in rows.values()}) == 1
    if name in vae_tables.TABLES:
        assert len({(row.epochs, row.data) for row in rows.values()}) == 1
    assert len({row.out for row in rows.values()}) == len(rows)


@pytest.mark.slow
def test_a_table_is_printed_with_errors_and_continued(tmp_path, monkeypatch, capsys):
    shared = {"latent_dim": 2, "hidden": (16,), "eval_samples": 5}
    small = vae_tables.vae_table(
        "Two rows", shared, TWO, (("two, vamp", "one"),), vae_tables.write_with_samples
    )
    monkeypatch.setitem(tables.TABLES, "mnist-priors", small)
    config = tables.Config("mnist-priors", tmp_path / "table", epochs=2, eval_limit=50)
    tables.run(config)
    report = (tmp_path / "table" / "report.md").read_text()
    result = json.loads((tmp_path / "table" / "result.json").read_text())
    assert "![samples](samples.png)" in report and (tmp_path / "table" / "samples.png").exists()
    rows, ((_, _, difference, error),) = result["rows"], result["contrasts"]
    assert list(rows) == list(TWO) and all(row["examples"] == 50 for row in rows.values())
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
    monkeypatch.setitem(
        tables.TABLES, "mnist-priors", vae_tables.vae_table("Two rows", {}, {"one": {}, "two": {}}, ())
    )
    monkeypatch.setattr(vae, "run", lambda row: pytest.fail("trained"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "result.json").write_text("{}")
    (tmp_path / "two" / "config.json").write_text(json.dumps({"epochs": 2, "eval_limit": None, name: there}))
    with pytest.raises(ValueError, match=f"two is of {name} {there}, not .*; choose another folder"):
        tables.run(tables.Config("mnist-priors", tmp_path, epochs=2))
    assert not (tmp_path / "manifest.json").exists()


def test_steps_replace_the_epochs_of_a_table(tmp_path):
    rows = tables.row_configs(tables.TABLES["mnist-priors"], tables.Config("mnist-priors", steps=7), tmp_path)
    assert {(row.steps, row.epochs) for row in rows.values()} == {(7, None)}


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown table 'mnist-prior'.* did you mean 'mnist-priors'"):
        tables.run(tables.Config("mnist-prior", tmp_path))
    with pytest.raises(ValueError, match="give --steps or --epochs, not both"):
        tables.run(tables.Config("mnist-priors", tmp_path, steps=1, epochs=1))
    with pytest.raises(ValueError, match="eval_limit"):
        tables.run(tables.Config("flow-energy", tmp_path, eval_limit=5))


@pytest.mark.slow
def test_the_table_of_flows_on_densities(tmp_path, monkeypatch):
    """Every row in result.json, as its run found it, and in the report; pictures beside them; a second call trains nothing."""
    table = tables.TABLES["flow-energy"]
    kept = {label: row for label, row in table.rows.items() if label.endswith(("moebius", "32)"))}
    monkeypatch.setitem(tables.TABLES, "flow-energy", table._replace(rows=kept))
    monkeypatch.setattr(flow_energy, "TORUS_FLOWS", ("moebius",))
    config = tables.Config("flow-energy", tmp_path, steps=4)
    tables.run(config)
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    report = (tmp_path / "report.md").read_text()
    for label, row in tables.row_configs(tables.TABLES["flow-energy"], config, tmp_path).items():
        flow, base = json.loads((row.out / "result.json").read_text())["rows"].values()
        assert rows[label]["kl_known"] == flow["kl_known"] and rows[label]["nothing"] == base
        assert label in report and np.isfinite(rows[label]["kl"]).all()
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in ("torus", "sphere"))
    monkeypatch.setattr(tables.script_of(table), "run", lambda row: pytest.fail("trained"))
    tables.run(config)
    with pytest.raises(ValueError, match="is of steps 4, not 5"):
        tables.run(tables.Config("flow-energy", tmp_path, steps=5))
