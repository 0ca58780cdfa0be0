"""A small model with variables: a running mean of the data, and the left singular vector of a matrix by power iteration."""

import dataclasses

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities
from dlvm_jax.models.density import Density
from dlvm_jax.recipes import Model, Recipe

DIM = 5


def init(key):
    return {"w": 0.3 * jax.random.normal(key, (DIM, DIM)), "log_std": jnp.zeros(DIM)}


def variables(key):
    left = jax.random.normal(key, (DIM,))
    return {"mean": jnp.zeros(DIM), "left": left / jnp.linalg.norm(left)}


def next_variables(params, x):
    """The running mean and the singular vector after a minibatch, and the right singular vector."""
    parameters, now = params
    right = parameters["w"].T @ now["left"]
    right /= jnp.linalg.norm(right)
    left = parameters["w"] @ right
    return {"mean": 0.9 * now["mean"] + 0.1 * x.mean(0), "left": left / jnp.linalg.norm(left)}, right


def log_prob(params, key, x, context=None):
    parameters, now = params
    return densities.normal_log_prob(x, now["mean"], parameters["log_std"])


def sample(params, key, context=None, shape=()):
    parameters, now = params
    noise = jax.random.normal(key, (*shape, DIM))
    return now["mean"] + jnp.exp(parameters["log_std"]) * noise, None


def objective(params, key, batch, step=None):
    """Maximum likelihood around the running mean; the spectral norm is drawn to two."""
    new, right = next_variables(params, batch)
    sigma = jax.lax.stop_gradient(new["left"]) @ params[0]["w"] @ jax.lax.stop_gradient(right)
    bound = log_prob(params, key, batch + 0.1 * jax.random.normal(key, batch.shape)).mean()
    return -bound + jnp.square(sigma - 2), {"bound": bound, "sigma": sigma, "variables": new}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running(Recipe):
    """That model for `fit`."""

    def build(self, spec, constants):
        density = Density(lambda key: (init(key), variables(key)), sample, log_prob, "exact")
        return Model(
            density,
            init,
            objective,
            objective,
            encode=lambda params, x, key=None: x - params[1]["mean"],
            decode=lambda params, z: z + params[1]["mean"],
            variables=variables,
        )
