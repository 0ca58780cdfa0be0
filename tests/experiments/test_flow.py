"""The density script of flows: from configuration to report, resume, and one line for impossible settings."""

import dataclasses
import json
import warnings

import numpy as np
import pytest

from dlvm_jax import data, recipes
from dlvm_jax.recipes.flow import FLOWS
from experiments.flow import __main__ as flow
from experiments.flow import report

TINY = flow.Config(steps=20, batch_size=32, depth=2, width=8, hidden=1, bins=4, eval_limit=50)


@pytest.mark.slow
def test_a_run_in_the_plane_leaves_a_report(tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run")
    flow.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert result["record"]["kind"] == "exact" and result["round_trip"] < 1e-3
    kl, error = result["KL(data, model)"]
    assert kl > -4 * error  # a divergence; false alarms 3e-5
    assert "KL(data, model)" in (config.out / "report.md").read_text()
    for name in ("samples", "curves"):
        assert (config.out / f"{name}.png").stat().st_size > 5000
    flow.run(dataclasses.replace(config, resume=True))
    assert json.loads((config.out / "result.json").read_text()) == result
    with pytest.raises(ValueError, match="depth"):
        flow.run(dataclasses.replace(config, resume=True, depth=3))


@pytest.mark.slow
def test_a_table_is_compared_with_a_gaussian(tmp_path):
    config = dataclasses.replace(TINY, data="breast_cancer", out=tmp_path / "run")
    flow.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert result["record"]["protocol"] == "standardised" and np.isfinite(result["Gaussian"]).all()
    assert "log-density of a Gaussian" in (config.out / "report.md").read_text()
    assert (config.out / "samples.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in FLOWS if name != "umnn"]
)  # its quadrature of 64 numbers takes minutes
def test_every_flow_on_digits(name, tmp_path):
    config = dataclasses.replace(
        TINY, data="digits", flow=name, steps=3, eval_limit=5, out=tmp_path / "run", bins=flow.Config.bins
    )
    if FLOWS[name].images:
        config = dataclasses.replace(config, scales=1)
    flow.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert 0 < result["record"]["bits_per_dim"] < 20 and np.isfinite(result["round_trip"])
    assert (config.out / "samples.png").exists()


@pytest.mark.slow
def test_a_short_run_learns(tmp_path):
    """Within 0.3 nats of eight Gaussians after 500 steps; a Gaussian is 1.0 away."""
    config = flow.Config(steps=500, out=tmp_path / "run")
    flow.run(config)
    assert json.loads((config.out / "result.json").read_text())["KL(data, model)"][0] < 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flow": "glow", "bins": 16}, "flow='glow' is for images"),
        ({"flow": "glow", "bins": 16, "data": "breast_cancer"}, "breast_cancer is of vectors"),
        ({"data": "rows.npy"}, "rows.npy does not exist"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
        ({"resume": True}, "say which"),
        ({"data": "nine_gaussians"}, "unknown data set 'nine_gaussians'"),
        ({"data": "digits", "flow": "glow", "bins": 16, "scales": 4}, "use fewer scales"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    out = {} if settings.get("resume") else {"out": tmp_path / "run"}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        flow.run(dataclasses.replace(TINY, **out, **settings))


def a_table(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    return data.load(tmp_path / "rows.npy", transform=recipes.Flow().transform)


def test_the_gaussian_of_one_column_is_that_of_closed_form(tmp_path):
    table = a_table(np.random.RandomState(0).randn(400, 1), tmp_path)
    x = np.asarray(table.test, np.float64)[:, 0]  # of mean 0 and variance 1 in training
    value, error = report.gaussian_log_prob(table.train, table.test)
    assert value == pytest.approx(-0.5 * np.mean(x**2) - 0.5 * np.log(2 * np.pi), abs=1e-5)
    assert error == pytest.approx(0.5 * np.std(x**2, ddof=1) / np.sqrt(len(x)), rel=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.warn_of(table)


def test_a_table_without_a_density_is_warned_of_and_has_no_gaussian(tmp_path):
    rng = np.random.RandomState(0)
    free = rng.randn(400, 3)
    sums = np.c_[free, free[:, 0] + free[:, 1]]
    classes = np.c_[free, np.eye(3)[rng.randint(0, 3, 400)]]
    for rows, count, discrete in (
        (sums, 1, None),
        (rng.randn(60, 50), 3, None),  # 48 training rows lie in a space of 47 dimensions
        (classes, 1, "[3, 4, 5]"),
    ):
        table = a_table(rows, tmp_path)
        with pytest.warns(UserWarning) as told:
            report.warn_of(table)
        lines = [str(each.message) for each in told]
        assert f"the others determine {count} of rows's {rows.shape[1]} columns" in lines[0]
        assert len(lines) == (2 if discrete else 1) and (
            discrete is None or f"the columns {discrete}" in lines[1]
        )
        assert report.gaussian_log_prob(table.train, table.test) is None
