"""Mixtures of diagonal Gaussians, with the memory of a matrix product."""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["normal_mixture_log_prob"]


def normal_mixture_log_prob(
    z: Array, mean: Array, log_std: Array, log_weights: Numeric | None = None
) -> Array:
    r"""Log-density of a mixture of diagonal Gaussians.

    $\log p(z) = \log\sum_k w_k\,\mathcal N(z\mid\mu_k,\sigma_k^2)$

    The sum over dimensions is inside the logarithm.  The squared distances of all pairs grow dimension by dimension, as sums
    of squared differences: products of matrices, $\sum_i z_i^2\sigma_{ki}^{-2} - 2 z_i\mu_{ki}\sigma_{ki}^{-2}
    + \mu_{ki}^2\sigma_{ki}^{-2}$, lose nats in float32 where components are narrow, and all differences at once take
    M times the memory.
    Shapes: `z` [*batch, M], `mean`, `log_std` [K, M], `log_weights` [K] or [*batch, K] (1/K unless given) -> [*batch], nats.
    Raises ValueError where they do not fit together.
    Source: Bishop 2006, eq. 9.7; as an aggregated posterior Hoffman & Johnson 2016, section 2.

    >>> one = normal_mixture_log_prob(jnp.zeros(2), jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    >>> round(float(one + jnp.log(2 * jnp.pi)), 5)
    0.0
    """
    log_weights = -math.log(len(mean)) if log_weights is None else log_weights
    z, mean, log_std, log_weights = as_wide(z, mean, log_std, log_weights)
    if (
        mean.ndim != 2
        or log_std.shape != mean.shape
        or (log_weights.ndim and log_weights.shape[-1] != len(mean))
    ):
        raise ValueError(
            "a mixture has means and log_stds [K, M] and log_weights [*batch, K], got shapes "
            f"{mean.shape}, {log_std.shape}, {log_weights.shape}"
        )
    if z.shape[-1] != mean.shape[-1]:
        raise ValueError(
            f"this mixture is of vectors of {mean.shape[-1]} numbers, got an array of shape {z.shape}"
        )

    @jax.checkpoint  # so that the gradient computes the differences again: they would take M times the memory
    def add(square, dimension):
        z, mean, inverse_std = dimension
        return square + jnp.square((z[..., None] - mean) * inverse_std), None

    start = jnp.zeros((*z.shape[:-1], len(mean)), z.dtype)
    dimensions = jnp.moveaxis(z, -1, 0), mean.T, jnp.exp(-log_std).T
    square, _ = jax.lax.scan(add, start, dimensions)
    constant = jnp.sum(log_std, axis=-1) + 0.5 * math.log(2 * math.pi) * mean.shape[-1]
    return jax.nn.logsumexp(log_weights - 0.5 * square - constant, axis=-1)
