"""A diffusion prior for a trained VAE: from a run folder to a report, and its recipe."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from dlvm_jax import data as datasets
from dlvm_jax import recipes, train
from experiments.diffusion import latent
from experiments.diffusion import prior as diffusion_prior
from experiments.vae import __main__ as vae

TINY = diffusion_prior.Config(width=8, steps=20, batch_size=16, eval_samples=2, eval_limit=5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A VAE of the digits with a VampPrior, whose parameters the prior borrows, and two seeds."""
    root = tmp_path_factory.mktemp("vae") / "run"
    parts = {"prior": "vamp", "components": 3, "latent_dim": 2, "hidden": (8,), "seeds": (0, 1)}
    vae.run(vae.Config(**parts, steps=20, eval_samples=2, eval_limit=5, out=root))
    return root


@pytest.mark.slow
def test_a_prior_is_trained_over_a_finished_vae(trained, tmp_path):
    """The row of its own prior is that of the VAE's run; a continued run gives the same result, without the VAE's folder too."""
    there = tmp_path / "vae"
    shutil.copytree(trained, there)
    config = dataclasses.replace(TINY, vae=there, out=tmp_path / "run")
    diffusion_prior.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert list(result["records"]) == ["its own, vamp", "diffusion"]
    before = json.loads((trained / "result.json").read_text())["records"]["0"]
    assert result["records"]["its own, vamp"]["evidence"]["log_likelihood"] == pytest.approx(
        before["log_likelihood"], rel=1e-5
    )
    assert result["records"]["diffusion"]["bound"]["kind"] == "bound"
    assert result["records"]["diffusion"]["evidence"]["kind"] == "weight" and result["step"] > 0
    changes = [
        result["records"]["diffusion"][of]["log_likelihood"]
        - result["records"]["its own, vamp"][of]["log_likelihood"]
        for of in ("bound", "evidence")
    ]
    np.testing.assert_allclose([mean for mean, _ in result["differences"]], changes, rtol=1e-5)
    for name in ("samples_before", "samples_after", "curves"):
        assert (config.out / f"{name}.png").stat().st_size > 3000
    diffusion_prior.run(dataclasses.replace(config, resume=True))
    assert json.loads((config.out / "result.json").read_text()) == result

    x = datasets.load("digits").test[:3]
    expected = train.load(there).encode(x)
    shutil.rmtree(there)
    fitted = train.load(config.out)
    np.testing.assert_array_equal(fitted.encode(x), expected)
    assert fitted.sample(jax.random.key(0), 4).shape == (4, 8, 8, 1)
    assert fitted.reconstruct(x).shape == x.shape and fitted.log_prob(jax.random.key(0), x).shape == (3,)


@pytest.mark.slow
def test_latent_vectors_are_standardised_by_their_moments(trained):
    """Of all training examples, drawn from the posterior: mean and deviation against the posterior's own moments.

    The mean of z over the data is that of the posterior means; the variance is that of the means plus the mean variance (law
    of total variance): within 5 standard errors of 1000 draws, false alarms 1e-6.
    """
    fitted, source = train.load(trained), datasets.load("digits")
    mean, std = latent.latent_moments(fitted.model, fitted.params, source, jax.random.key(0))
    x = np.asarray(source.preprocess(jax.random.key(9), source.train))
    means, log_std = fitted.model.parts.posterior.normal(fitted.params["posterior"], x)
    variance = np.var(means, 0) + np.exp(2 * np.asarray(log_std)).mean(0)
    assert mean.shape == std.shape == (2,)
    assert (np.abs(mean - np.mean(means, 0)) < 5 * np.sqrt(variance / 1000)).all()
    assert (np.abs(std / np.sqrt(variance) - 1) < 5 / np.sqrt(2 * 1000)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"resume": True}, "say which"),
        ({"vae": "nowhere"}, "holds no run that this version reads"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    settings = {k: tmp_path / v if k == "vae" else v for k, v in settings.items()}
    out = {} if settings.get("resume") else {"out": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        diffusion_prior.run(dataclasses.replace(TINY, **out, **settings))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (recipes.VAE(prior="sphere", posterior="von-mises-fisher"), "takes over one layer on R"),
        (recipes.VAE(layers=2), "takes over one layer on R"),
        (recipes.VAE(condition="label"), "takes over one layer on R"),
        (recipes.Autoencoder(), "a diffusion prior is of a VAE, got a run of Autoencoder"),
    ],
    ids=repr,
)
def test_models_of_other_latent_spaces_are_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        latent.check_vae(recipe)


@pytest.mark.slow
def test_data_of_another_shape_are_refused(trained, tmp_path):
    x = np.random.RandomState(0).randint(0, 2, (60, 4, 4, 1)).astype(np.uint8)
    other = datasets.from_arrays(x, test=x[:5])
    recipe = latent.LatentDiffusion(vae=trained, width=8)
    constants = recipe.constants(datasets.load("digits"), 0)
    with pytest.raises(
        ValueError, match=r"of other data than mine, bits, with examples of shape \(4, 4, 1\)"
    ):
        recipe.build(other.spec, constants)


def test_a_run_without_a_checkpoint_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "vae")
    shutil.rmtree(tmp_path / "vae" / "checkpoints")
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        diffusion_prior.run(dataclasses.replace(TINY, vae=tmp_path / "vae", out=tmp_path / "run"))
