"""The library is extended as its README says: a prior and a likelihood are one entry, a family is one dataclass."""

import dataclasses
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, recipes, train
from dlvm_jax.models import density, spaces
from dlvm_jax.models.density import Density, OutputDistribution
from dlvm_jax.recipes.vae_parts import LIKELIHOODS, PRIORS, Likelihood, Prior
from experiments import run as common
from experiments.vae.__main__ import Config

README = Path(__file__).parent.parent.parent / "dlvm_jax" / "README.md"
BITS = (np.random.RandomState(0).rand(80, 4, 4) < 0.3).astype(np.uint8)


def laplace(dim):
    """Independent Laplace variables of scale one."""

    def log_prob(params, key, z, context=None):
        return jnp.sum(-jnp.abs(z) - jnp.log(2.0), axis=-1)

    def sample(params, key, context=None, shape=()):
        z = jax.random.laplace(key, (*shape, dim))
        return z, log_prob(params, None, z)

    return Density(lambda key: {}, sample, log_prob, "exact")


def fit(recipe, source, out):
    return train.fit(recipe, source, out=out, steps=20, batch_size=20, progress=False)


def test_a_prior_is_one_entry(tmp_path, monkeypatch):
    """It is trained, read back, offered on the command line, and refused where it does not fit."""
    entry = Prior(lambda recipe, place: laplace(recipe.latent_dim), "independent Laplace", fixed=True)
    monkeypatch.setitem(PRIORS, "laplace", entry)
    recipe = recipes.VAE(prior="laplace", latent_dim=2, hidden=(8,))
    fitted = fit(recipe, data.from_arrays(BITS), tmp_path / "run")
    again = train.load(tmp_path / "run")
    x = fitted.sample(jax.random.key(0), 5)
    assert again.recipe == recipe and x.shape == (5, 4, 4, 1)
    np.testing.assert_array_equal(x, again.sample(jax.random.key(0), 5))
    parsed = common.command_line(Config, "", ["--prior", "laplace"])
    assert parsed.prior == "laplace"
    with pytest.raises(ValueError, match="prior='laplace' does not go with objective='free-bits'; possible"):
        dataclasses.replace(recipe, objective="free-bits", free_nats=0.1).check()
    dataclasses.replace(recipe, objective="wae").check()  # a prior without parameters is enough for it


@pytest.mark.slow
def test_a_likelihood_is_one_entry(tmp_path, monkeypatch):
    def build(recipe, spec):  # a Bernoulli by its probit instead of its logit
        logits = lambda out: jax.scipy.special.logit(0.01 + 0.98 * jax.scipy.stats.norm.cdf(out[..., 0]))
        plain = density.bernoulli()
        return OutputDistribution(
            1,
            lambda x, out: plain.log_prob(x, logits(out)[..., None]),
            lambda key, out, shape: plain.sample(key, logits(out)[..., None], shape),
            lambda out: jax.nn.sigmoid(logits(out)),
            space=spaces.levels(2),
        )

    monkeypatch.setitem(LIKELIHOODS, "probit", Likelihood(build, "of bits, by their probit", "bits"))
    fitted = fit(recipes.VAE(likelihood="probit", hidden=(8,)), data.from_arrays(BITS), tmp_path / "run")
    assert np.isfinite(fitted.log_prob(jax.random.key(0), BITS[:3, ..., None])).all()
    with pytest.raises(ValueError, match="probit likelihood needs bits"):
        fit(recipes.VAE(likelihood="probit"), data.from_arrays(7 * BITS), tmp_path / "levels")


@pytest.mark.slow
def test_a_family_is_one_dataclass(tmp_path, monkeypatch):
    """The example of the README, as a module of one's own; its likelihood is that of the mixture by hand."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    module = types.ModuleType("my_family")
    exec(
        compile(code.replace("import dataclasses", "import dataclasses", 1), "README", "exec"),
        module.__dict__,
    )
    module.Mixture.__module__ = "my_family"
    monkeypatch.setitem(sys.modules, "my_family", module)
    rows = np.random.RandomState(0).randn(100, 2).astype(np.float32)
    fitted = fit(module.Mixture(components=2), data.from_arrays(rows), tmp_path / "run")
    again = train.load(tmp_path / "run")
    x = jnp.asarray(rows[:4])
    p = again.params
    each = -0.5 * jnp.square((x[:, None] - p["mean"]) / jnp.exp(p["log_std"])) - p["log_std"]
    each = each.sum(-1) - jnp.log(2 * jnp.pi) + jax.nn.log_softmax(p["logits"])
    np.testing.assert_allclose(fitted.log_prob(None, x), jax.nn.logsumexp(each, -1), rtol=1e-5)
