"""The diffusion script: from configuration to report, resume, and one line for impossible settings."""

import dataclasses
import json

import numpy as np
import pytest

from dlvm_jax import data as datasets
from dlvm_jax.data import toys
from experiments.diffusion import __main__ as diffusion
from experiments.diffusion import report as diffusion_report

TINY = diffusion.Config(
    width=8, depth=1, steps=20, batch_size=16, sample_steps=4, eval_samples=2, eval_limit=20, warm_up=2
)


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch):
    """Each number of evaluations is a program of its own to compile."""
    monkeypatch.setattr(diffusion_report, "EVALUATIONS", (6,))


def test_a_run_in_the_plane_leaves_a_report(tmp_path):
    config = dataclasses.replace(
        TINY, data="eight_gaussians", process="vp", steps=4, ode_examples=100, out=tmp_path / "run"
    )
    diffusion.run(config)
    result = json.loads((config.out / "result.json").read_text())
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
    config = dataclasses.replace(TINY, data="eight_gaussians", process="vp", out=tmp_path / "run")
    diffusion.run(config)
    record = json.loads((config.out / "result.json").read_text())["record"]
    diffusion.run(dataclasses.replace(config, resume=True, sampler="heun", sample_steps=6))
    assert json.loads((config.out / "result.json").read_text())["record"] == record
    with pytest.raises(ValueError, match="process"):
        diffusion.run(dataclasses.replace(config, resume=True, process="edm"))


@pytest.mark.slow
def test_digits_given_their_labels(tmp_path):
    """Bound, likelihood by ODE and guided samples of a conditional model; the scale is that of levels on [-1, 1]."""
    config = dataclasses.replace(
        TINY, condition="label", guidance=1.0, ode_examples=3, eval_limit=5, out=tmp_path / "run"
    )
    diffusion.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert result["step"] > 0 and result["ode"]["kind"] == "bound" and result["ode"]["examples"] == 3
    images = datasets.load("digits", "levels").train / 8.0 - 1
    data_std = json.loads((config.out / "config.json").read_text())["data_std"]
    assert data_std == pytest.approx(np.sqrt(np.mean(images**2)), rel=1e-6)
    assert "given the label" in (config.out / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        {"process": "learned", "fourier": (1, 2), "dropout": 0.1, "target": "edm"},
        {"net": "transformer", "sampler": "heun"},
        {"process": "vp", "net": "unet"},
        {
            "process": "cosine",
            "net": "unet",
            "objective": "epsilon",
            "target": "epsilon",
            "sampler": "ancestral",
        },
        {"process": "ddpm", "target": "v", "objective": "min_snr", "sampler": "ddim"},
        {"process": "edm", "objective": "edm", "target": "edm", "sampler": "heun"},
        {"process": "rectified", "target": "velocity", "net": "transformer", "sampler": "dpm-3"},
        {"process": "sub-vp", "target": "score", "objective": "v", "sampler": "euler-maruyama"},
        {"target": "x0", "objective": "x0"},
    ],
    ids=str,
)
def test_parts_on_digits(parts, tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run", **parts)
    diffusion.run(config)
    record = json.loads((config.out / "result.json").read_text())["record"]
    assert record["log_likelihood"] < 0 < record["bits_per_dim"]
    assert (config.out / "samples.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "eight_gaussians", "net": "unet"}, "use --net mlp"),
        ({"net": "mlp"}, "use --net flat, unet or transformer"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"dropout": 1.0}, r"--dropout is a rate in \[0, 1\), got 1.0"),
        ({"resume": True}, "say which"),
        ({"process": "vp", "log_snr": (-6.0, 10.0)}, "--log-snr belongs to"),
        ({"log_snr": (6.0, -6.0)}, "low < high"),
        ({"data": "nine_gaussians"}, "unknown data set 'nine_gaussians'"),
        ({"patch": 3, "net": "flat"}, "patches of 3 x 3 do not tile"),
        ({"net": "transformer", "width": 30}, "divisible by its 4 heads, got 30; use 32"),
        ({"data": "eight_gaussians", "condition": "label"}, "has none; leave it out"),
        ({"guidance": 1.0}, "add --condition label"),
        ({"ema": 2.0}, r"--ema is a decay in \[0, 1\), got 2.0"),
        ({"log_snr": (float("nan"), 3.0)}, "two finite numbers"),
        ({"process": "learned", "objective": "epsilon"}, "trained by --objective bound alone"),
        ({"data": "eight_gaussians", "target": "levels"}, "levels is for images"),
        ({"net": "unet", "fourier": (3,)}, "not to --net unet"),
        ({"data": "eight_gaussians", "dropout": 0.1}, "--dropout belongs to the networks of images"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    out = {} if settings.get("resume") else {"out": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        diffusion.run(dataclasses.replace(TINY, **out, **settings))


def test_toys_are_data_sets():
    dataset = toys.dataset("checkerboard", (100, 20, 30))
    assert [len(part) for part in (dataset.train, dataset.valid, dataset.test)] == [100, 20, 30]
    assert not dataset.discrete and len(dataset.protocol.hash) == 12
    assert np.isfinite(toys.checkerboard_log_prob(dataset.test)).all()
    assert not np.array_equal(dataset.train[:20], dataset.valid)
    with pytest.raises(ValueError, match="unknown toy distribution"):
        toys.dataset("square")
