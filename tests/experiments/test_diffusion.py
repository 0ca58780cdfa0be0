"""The diffusion script: from configuration to report, resume, data of one's own, what it refuses."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest

from dlvm_jax import data as datasets
from dlvm_jax import train
from dlvm_jax.data import toys
from experiments import run as common
from experiments.diffusion import __main__ as diffusion

pytestmark = pytest.mark.usefixtures("short_solutions")
TINY = diffusion.Config(
    width=8, depth=1, steps=20, batch_size=16, sample_steps=4, eval_samples=2, eval_limit=20, warm_up=2
)


def result_of(config):
    return json.loads((config.out / "result.json").read_text())


@pytest.mark.slow
def test_a_run_in_the_plane_leaves_a_report(tmp_path):
    config = dataclasses.replace(
        TINY, data="eight_gaussians", process="vp", steps=4, ode_examples=40, out=tmp_path / "run"
    )
    diffusion.run(config)
    result = result_of(config)
    assert result["record"]["kind"] == "bound" and np.isfinite(result["record"]["log_likelihood"])
    assert result["step"] > 0
    kl, error = result["KL(data, model) by ODE"]
    assert kl > -4 * error  # a divergence; false alarms 3e-5
    report = (config.out / "report.md").read_text()
    assert f"{result['record']['log_likelihood']:.4f}" in report and "by ODE" in report
    for name in ("samples", "trajectory", "trajectory_x0", "solvers", "curves"):
        assert (config.out / f"{name}.png").stat().st_size > 5000


@pytest.mark.slow
def test_another_sampler_may_finish_a_run_another_process_may_not(tmp_path):
    config = dataclasses.replace(
        TINY, data="eight_gaussians", process="vp", steps=4, ode_examples=10, out=tmp_path / "run"
    )
    diffusion.run(config)
    record = result_of(config)["record"]
    diffusion.run(dataclasses.replace(config, resume=True, sampler="heun", sample_steps=6))
    assert result_of(config)["record"] == record
    with pytest.raises(ValueError, match="process"):
        diffusion.run(dataclasses.replace(config, resume=True, process="edm"))
    with pytest.raises(ValueError, match="already holds a run"):
        diffusion.run(config)


@pytest.mark.slow
def test_digits_given_their_labels(tmp_path):
    """Bound, likelihood by ODE and guided samples of a conditional model; the scale is that of levels on [-1, 1]."""
    config = dataclasses.replace(
        TINY, condition="label", guidance=1.0, ode_examples=3, eval_limit=5, out=tmp_path / "run"
    )
    diffusion.run(config)
    result = result_of(config)
    assert result["step"] > 0 and result["ode"]["kind"] == "bound" and result["ode"]["examples"] == 3
    images = datasets.load("digits", "levels").train / 8.0 - 1
    data_std = train.load(config.out).constants["data_std"]
    assert data_std == pytest.approx(np.sqrt(np.mean(images**2)), rel=1e-6)
    assert "given the label" in (config.out / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        {"process": "learned", "fourier": (1, 2), "dropout": 0.1, "target": "edm"},
        {"process": "ddpm", "target": "v", "objective": "min_snr", "sampler": "ddim"},
        {"process": "rectified", "target": "velocity", "net": "transformer", "sampler": "dpm-3"},
    ],
    ids=str,
)
def test_parts_on_digits(parts, tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run", **parts)
    diffusion.run(config)
    record = result_of(config)["record"]
    assert record["log_likelihood"] < 0 < record["bits_per_dim"]
    assert (config.out / "samples.png").exists()


@pytest.mark.slow
def test_data_of_ones_own(tmp_path):
    """Not square, of three channels, with labels."""
    train_x = np.random.RandomState(0).randint(0, 256, (60, 4, 6, 3)).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", train=train_x, train_labels=np.arange(60) % 3)
    config = dataclasses.replace(TINY, data=str(tmp_path / "mine.npz"), condition="label")
    config = dataclasses.replace(config, steps=4, warm_up=1, out=tmp_path / "run")
    diffusion.run(config)
    result = result_of(config)
    assert np.isfinite(result["record"]["log_likelihood"]) and (config.out / "report.md").exists()
    assert "bits_per_dim_of_baseline_codes" in result
    fitted = train.load(config.out)
    drawn = fitted.sample(jax.random.key(0), 2, given=np.arange(3))
    assert drawn.shape[-len(fitted.spec.event_shape) :] == fitted.spec.event_shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "eight_gaussians", "net": "unet"}, "use net='mlp'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"resume": True}, "say which"),
        ({"data": "nine_gaussians"}, "unknown data set 'nine_gaussians'"),
        ({"patch": 3, "net": "flat"}, "patches of 3 x 3 do not tile"),
        ({"data": "eight_gaussians", "condition": "label"}, "has none; leave it out"),
        ({"guidance": 1.0}, "add condition='label'"),
        ({"ema": 2.0}, "ema must be at least 0 and below 1, got 2.0"),
        ({"data": "eight_gaussians", "target": "levels"}, "target='levels' is for integers"),
        ({"warm_up": 20}, "warm_up must be below the 20 steps"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(settings, message, tmp_path):
    out = {} if settings.get("resume") else {"out": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        diffusion.run(dataclasses.replace(TINY, **out, **settings))
    assert not list(tmp_path.iterdir())


def test_a_refusal_names_the_options_of_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` sets its own
    monkeypatch.setattr(
        "sys.argv", ["diffusion", "--net", "mlp", "--log-snr", "-5", "9", "--out", str(tmp_path / "a")]
    )
    with pytest.raises(SystemExit) as stop:
        common.main(diffusion.run, diffusion.Config, diffusion.__doc__)
    assert stop.value.code == 2
    assert "error: --net mlp is for vectors" in capsys.readouterr().err


def test_toys_are_data_sets():
    dataset = toys.dataset("checkerboard", (100, 20, 30))
    assert [len(part) for part in (dataset.train, dataset.valid, dataset.test)] == [100, 20, 30]
    assert not dataset.discrete and len(dataset.protocol.hash) == 12
    assert np.isfinite(toys.checkerboard_log_prob(dataset.test)).all()
    assert not np.array_equal(dataset.train[:20], dataset.valid)
    with pytest.raises(ValueError, match="unknown toy distribution"):
        toys.dataset("square")
