"""The restoration script: its methods where the answer is known, a whole run, and what it refuses."""

import builtins
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, recipes, train
from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import schedules
from dlvm_jax.functional.diffusion.inverse import inpainting
from experiments import run as common
from experiments.restoration import __main__ as restoration
from experiments.restoration import methods
from experiments.restoration.problems import Problem, problems
from experiments.restoration.report import psnr

classical = pytest.importorskip("skimage.restoration")

SHAPE, PEAK = (6, 8, 1), 16.0
X = np.random.RandomState(0).randint(0, 17, (3, *SHAPE)).astype(np.float32)
PROBLEMS = problems(SHAPE, jax.random.key(0))


def test_an_error_of_a_tenth_of_the_peak_is_twenty_decibels():
    np.testing.assert_allclose(psnr(X + 1.6, X, PEAK), 20.0, rtol=1e-6)


def test_the_eigenvalues_of_each_problem_are_bounded():
    """The steps of total variation need it; the bound is reached."""
    for problem in PROBLEMS.values():
        a = np.asarray(jax.jit(problem.observe)(jnp.eye(48).reshape(48, *SHAPE))).reshape(48, -1)
        assert np.linalg.eigvalsh(a @ a.T).max() == pytest.approx(problem.square, rel=1e-5)
    assert "x2" not in problems((5, 6, 1), jax.random.key(0))


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_total_variation_of_two_pixels_has_its_closed_form(scale):
    """y = scale x: scale x is the mean of y plus and minus max(0, difference / 2 - weight / scale)."""
    y, weight = PEAK * np.array([[0.2, 0.9], [0.5, 0.55], [0.0, 0.3]], np.float32), 0.06
    images = jnp.asarray(y).reshape(3, 1, 2, 1)
    problem = Problem("", inpainting(jnp.full((1, 2, 1), scale)), None, lambda y: y, scale**2)
    found = methods._total_variation(classical, PEAK, problem, images, weight)(images)
    half = np.maximum((y[:, 1] - y[:, 0]) / 2 - PEAK * weight / scale, 0)[:, None] * [-1, 1]
    expected = (y.mean(1, keepdims=True) + half) / scale
    np.testing.assert_allclose(found.reshape(3, 2), expected, atol=0.01 * PEAK)


def test_the_wiener_filter_undoes_a_blur_without_noise():
    problem = PROBLEMS["blur"]
    y = jax.jit(problem.observe)(X)
    run = lambda balance: methods._wiener(classical, PEAK, problem, None, balance)(y)
    np.testing.assert_allclose(run(1e-12), X, atol=0.01)
    assert abs(run(0.1) - X).max() > 1
    assert methods._wiener(classical, PEAK, PROBLEMS["box"], None, 0.1) is None


@pytest.mark.parametrize("method", methods.DIFFUSION.values())
def test_diffusion_in_levels_agrees_with_the_observation(method, monkeypatch):
    """Of block means almost without noise, with a Gaussian's denoiser: the process sees them on [-1, 1]."""
    monkeypatch.setattr(methods, "SAMPLE_STEPS", 8)
    process = schedules.linear_log_snr(-5.0, 13.3)
    law = exact.gaussian(jnp.zeros(48), 0.3 * jnp.eye(48))
    denoise = lambda params, x, t: exact.denoiser(law, process, x.reshape(*x.shape[:-3], 48), t).reshape(
        x.shape
    )
    parts = SimpleNamespace(
        denoiser=SimpleNamespace(process=lambda params: process, denoise=denoise), levels=17
    )
    fitted = SimpleNamespace(
        model=SimpleNamespace(parts=parts), params={}, spec=SimpleNamespace(event_shape=SHAPE)
    )
    problem = PROBLEMS["x2"]
    y = problem.observe(jnp.asarray(X))
    x = methods._diffusion(fitted, 0.01, jax.random.key(0), method, 2, problem, y, None)(y)
    np.testing.assert_allclose(problem.observe(x), y, atol=0.1)


def test_without_scikit_image_its_methods_are_left_out_with_a_line(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    config = restoration.Config()
    with pytest.warns(UserWarning, match=r"need scikit-image: pip install 'dlvm_jax\[restoration\]'"):
        assert list(methods.methods(config, None, None, (0, 0), 1.0)) == ["observation", "PnP-HVAE"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "noise must be above 0, got 0.0"),
        ({"temperatures": (1.0, 0.0)}, r"above 0 and at most 1, got \(1.0, 0.0\)"),
        ({"temperatures": ()}, "one or more"),
        ({"eval_limit": 1}, "eval_limit must be at least 2"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_bad_settings_are_refused(options, message, tmp_path):
    if "model" in options:
        options = {"model": tmp_path / "nowhere"}
    with pytest.raises(ValueError, match=message):
        restoration.run(restoration.Config(**options, out=tmp_path / "run"))


TINY = {"groups": (1,), "latents": (4,), "widths": (16,), "hidden": (16,)}
MODELS = {  # recipe, protocol, steps
    "levels": (recipes.Hierarchical(**TINY, likelihood="discretised-logistic"), "levels", 300),
    "bits": (recipes.Hierarchical(**TINY), None, 2),
    "up": (recipes.Hierarchical(**TINY, inference="bottom-up"), None, 2),
    "diffusion": (recipes.Diffusion(width=8, depth=1), "levels", 20),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Models of the digits: a hierarchical VAE of levels, two of bits, a diffusion model."""
    root = tmp_path_factory.mktemp("runs")
    for name, (recipe, protocol, steps) in MODELS.items():
        training = {"steps": steps, "evaluations": 1, "progress": False}
        train.fit(recipe, data.load("digits", protocol), out=root / name, **training)
        (root / name / "config.json").write_text(json.dumps({"data": "digits", "protocol": protocol}))
    return root


@pytest.mark.slow
def test_a_run_restores_what_is_missing_and_runs_that_do_not_fit_are_refused(
    trained, tmp_path, monkeypatch, capsys
):
    """The model is too weak for blurs and block means."""
    monkeypatch.setattr(methods, "SAMPLE_STEPS", 4)
    monkeypatch.setattr(methods, "DRAWS", 2)
    monkeypatch.setattr(methods, "TV_WEIGHTS", (0.001, 0.01))
    monkeypatch.setattr(methods, "BALANCES", (0.001, 0.01))
    config = restoration.Config(
        model=trained / "levels",
        diffusion=trained / "diffusion",
        temperatures=(1.0, 0.7),
        iterations=20,
        tune_limit=2,
        eval_limit=8,
        out=tmp_path / "run",
    )
    restoration.run(config)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["psnr"]) == ["box", "pixels", "blur", "x2"] and result["examples"] == 8
    for name, by in result["psnr"].items():
        assert len(by) == (8 if name == "blur" else 7)
        assert name in ("blur", "x2") or by["PnP-HVAE"][0] > by["observation"][0] + 1
        mean, error = result["psnr of PnP-HVAE less"][name]["observation"]
        assert mean == pytest.approx(by["PnP-HVAE"][0] - by["observation"][0]) and error > 0
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 10_000
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| PiGDM, mean of 2 | " in report and "| Wiener | - | - | " in report

    capsys.readouterr()
    for options, message in {
        f"--model {trained / 'up'}": "which has no temperature; give --temperatures 1",
        f"--model {trained / 'bits'}": "is of bits, whose likelihood has no standard deviation; train on levels",
        f"--model {trained / 'diffusion'}": "is of Diffusion; give a run of experiments.hierarchical as model",
        f"--model {trained / 'levels'} --diffusion {trained / 'levels'}": "is of Hierarchical; give a run of",
    }.items():
        with pytest.raises(SystemExit):
            common.main(
                restoration.run, restoration.Config, "", [*options.split(), "--out", str(tmp_path / "other")]
            )
        line = capsys.readouterr().err
        assert message in line and line.startswith("error: ") and line.count("\n") == 1
