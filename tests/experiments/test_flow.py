"""The density script of flows: from configuration to report, resume, and one line for impossible settings."""

import dataclasses
import json

import numpy as np
import pytest

from dlvm_jax.recipes.flow import FLOWS
from experiments.flow import __main__ as flow

TINY = flow.Config(steps=20, batch_size=32, depth=2, width=8, hidden=1, bins=4, eval_limit=50)


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
@pytest.mark.parametrize("name", FLOWS)
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
