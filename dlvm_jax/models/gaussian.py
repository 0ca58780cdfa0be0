"""Gaussian priors and posteriors beyond N(0, I) and the diagonal one: learned, mixed, with full covariance."""

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities, mixtures
from dlvm_jax.functional.numerics import as_integer
from dlvm_jax.models.density import Density, Net, batch_of, check_batches, check_dim, check_event

__all__ = ["full_normal", "learned_normal", "mixture", "triangle_size"]


def learned_normal(dim: int) -> Density:
    """The Gaussian N(m, diag s^2) on R^dim with trained m and s, at first N(0, I)."""
    check_dim(dim)

    def init(key):
        return {"mean": jnp.zeros(dim), "log_std": jnp.zeros(dim)}

    def normal(params, context=None):
        return params["mean"], params["log_std"]

    def log_prob(params, key, z, context=None):
        z = check_event(z, dim)
        return densities.normal_log_prob(z, *normal(params))

    def sample(params, key, context=None, shape=()):
        z = densities.normal_sample(key, *normal(params), shape + batch_of(context))
        return z, log_prob(params, None, z)

    return Density(init, sample, log_prob, "exact", lambda params, context=None: params["mean"], normal)


def mixture(dim: int, components: int) -> Density:
    """The mixture sum_k pi_k N(m_k, diag s_k^2) on R^dim, all trained; at first K unit Gaussians with means from N(0, I).

    The logarithm is taken of the sum over components of whole densities, log sum_k exp(log pi_k + sum_i log N(z_i)), never
    dimension by dimension.  Source: Bishop 2006, eq. 9.7.
    """
    check_dim(dim)
    if as_integer(components, "the number of components") < 1:
        raise ValueError(f"a mixture needs at least one component, got {components}")

    def init(key):
        return {
            "logits": jnp.zeros(components),
            "mean": jax.random.normal(key, (components, dim)),
            "log_std": jnp.zeros((components, dim)),
        }

    def log_prob(params, key, z, context=None):
        z = check_event(z, dim)
        log_weights = jax.nn.log_softmax(params["logits"])
        return mixtures.normal_mixture_log_prob(z, params["mean"], params["log_std"], log_weights)

    def sample(params, key, context=None, shape=()):
        key_component, key_z = jax.random.split(key)
        which = jax.random.categorical(key_component, params["logits"], shape=shape + batch_of(context))
        z = densities.normal_sample(key_z, params["mean"][which], params["log_std"][which])
        return z, log_prob(params, None, z)

    def mean(params, context=None):
        return jax.nn.softmax(params["logits"]) @ params["mean"]

    def law(params):
        return params["mean"], params["log_std"], jax.nn.log_softmax(params["logits"])

    return Density(  # the logits get no gradient of samples
        init, sample, log_prob, "exact", mean, reparameterised=False, mixture=law
    )


def triangle_size(dim: int) -> int:
    """Number of outputs of the network of a `full_normal`: the mean and a lower triangle."""
    return dim + dim * (dim + 1) // 2


def full_normal(net: Net, dim: int) -> Density:
    """The conditional Gaussian N(m(x), L(x) L(x)^T), L lower triangular with an exponential on its diagonal.

    net: context -> [*batch, triangle_size(dim)], the mean and then the triangle row by row.
    Source: Kingma & Welling 2019, section 2.5.1 (full-covariance posterior).
    """
    check_dim(dim)
    rows, columns = jnp.tril_indices(dim)

    def law(params, context):
        raw_params = net.apply(params, context)
        check_event(raw_params, triangle_size(dim))
        mean, triangle = raw_params[..., :dim], raw_params[..., dim:]
        on = rows == columns
        triangle = jnp.where(on, jnp.exp(jnp.where(on, triangle, 0.0)), triangle)
        return mean, jnp.zeros((*mean.shape, dim), triangle.dtype).at[..., rows, columns].set(triangle)

    def log_prob(params, key, z, context=None):
        z = check_event(z, dim)
        mean, tril = law(params, context)
        check_batches(z.shape[:-1], mean.shape[:-1])
        return densities.multivariate_normal_log_prob(z, mean, tril)

    def sample(params, key, context=None, shape=()):
        mean, tril = law(params, context)
        z = densities.multivariate_normal_sample(key, mean, tril, shape)
        return z, densities.multivariate_normal_log_prob(z, mean, tril)

    return Density(net.init, sample, log_prob, "exact", lambda params, context=None: law(params, context)[0])
