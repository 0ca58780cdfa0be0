r"""Linear-Gaussian models: probabilistic PCA (from `functional.linear_gaussian`), and a hierarchy of two of them.

The hierarchy is `top`, z2 -> z1, and `bottom`, z1 -> x: z2 ~ N(0, I), z1 ~ N(W2 z2 + mu2, sigma2^2 I) and
x ~ N(W1 z1 + mu1, sigma1^2 I), each a `LinearGaussian`.  The joint distribution is Gaussian, so the evidence and the top-down
posterior p(z2 | x) p(z1 | x, z2), which a hierarchical VAE approximates, are known.
"""

import jax.numpy as jnp

from dlvm_jax.functional.conditioning import gaussian_marginal, gaussian_posterior
from dlvm_jax.functional.densities import multivariate_normal_log_prob
from dlvm_jax.functional.linear_gaussian import LinearGaussian as LinearGaussian
from dlvm_jax.functional.linear_gaussian import checked
from dlvm_jax.functional.linear_gaussian import log_evidence as log_evidence
from dlvm_jax.functional.linear_gaussian import posterior as posterior
from dlvm_jax.functional.linear_gaussian import sample as sample
from dlvm_jax.functional.numerics import as_wide, einsum
from dlvm_jax.functional.types import Array

__all__ = ["hierarchy_conditional", "hierarchy_log_evidence", "hierarchy_posterior"]


def _noise(model):
    return jnp.exp(model.log_std) * jnp.eye(model.w.shape[0], dtype=model.w.dtype)


def _collapsed(top, bottom):
    """Weights, offset and factor of the noise of x given z2, with z1 integrated out."""
    (top,), (bottom,) = checked(top), checked(bottom)
    mean, tril = gaussian_marginal(top.mean, _noise(top), bottom.w, bottom.mean, _noise(bottom))
    return einsum("di,ij->dj", bottom.w, top.w), mean, tril


def _prior(top):
    latent = top.w.shape[1]
    return jnp.zeros(latent, top.w.dtype), jnp.eye(latent, dtype=top.w.dtype)


def hierarchy_log_evidence(top: LinearGaussian, bottom: LinearGaussian, x: Array) -> Array:
    r"""Exact log-evidence of a two-level linear-Gaussian hierarchy.

    $\log\mathcal N(x\mid W_1\mu_2+\mu_1,\ W_1(W_2W_2^\top+\sigma_2^2I)W_1^\top+\sigma_1^2I)$

    Shapes: `x` [*batch, D] -> [*batch], nats.  Source: Bishop 2006, eq. 2.115, twice.

    >>> one = LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.float32(0))
    >>> round(float(hierarchy_log_evidence(one, one, jnp.zeros(1)) + 0.5 * jnp.log(2 * jnp.pi * 3)), 6)
    0.0
    """
    return multivariate_normal_log_prob(x, *gaussian_marginal(*_prior(top), *_collapsed(top, bottom)))


def hierarchy_posterior(top: LinearGaussian, bottom: LinearGaussian, x: Array) -> tuple[Array, Array]:
    r"""Exact posterior of the upper level, the first factor of the top-down posterior.

    $p(z_2\mid x) \propto \mathcal N(z_2\mid 0,I)\,
        \mathcal N(x\mid W_1(W_2z_2+\mu_2)+\mu_1,\ \sigma_2^2W_1W_1^\top+\sigma_1^2I)$

    Shapes: `x` [*batch, D] -> mean [*batch, M2], scale_tril [M2, M2].  Source: Bishop 2006, eq. 2.116.

    >>> one = LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.float32(0))
    >>> round(float(hierarchy_posterior(one, one, jnp.ones(1))[0][0]), 6)
    0.333333
    """
    return gaussian_posterior(*_prior(top), *_collapsed(top, bottom), x)


def hierarchy_conditional(
    top: LinearGaussian, bottom: LinearGaussian, x: Array, z2: Array
) -> tuple[Array, Array]:
    r"""Exact posterior of the lower level given the upper one, the second factor of the top-down posterior.

    $p(z_1\mid x,z_2) \propto \mathcal N(z_1\mid W_2z_2+\mu_2,\sigma_2^2I)\,\mathcal N(x\mid W_1z_1+\mu_1,\sigma_1^2I)$

    Shapes: `x` [*batch, D], `z2` [*batch, M2] -> mean [*batch, M1], scale_tril [M1, M1].  Source: Bishop 2006, eq. 2.116.

    >>> one = LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.float32(0))
    >>> round(float(hierarchy_conditional(one, one, jnp.ones(1), jnp.zeros(1))[0][0]), 6)
    0.5
    """
    (top,), (bottom, x) = checked(top), checked(bottom, x)
    mean = einsum("ij,...j->...i", top.w, as_wide(z2)) + top.mean
    return gaussian_posterior(mean, _noise(top), bottom.w, bottom.mean, _noise(bottom), x)
