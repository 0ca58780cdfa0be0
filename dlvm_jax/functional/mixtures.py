"""Mixtures of diagonal Gaussians, with the cost of a matrix product."""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities

__all__ = ["normal_mixture_log_prob"]


def normal_mixture_log_prob(z, mean, log_std, log_weights=None):
    r"""Log-density of a mixture of diagonal Gaussians.

    $\log p(z) = \log\sum_k w_k\,\mathcal N(z\mid\mu_k,\sigma_k^2)$

    The sum over dimensions is inside the logarithm.  The squared distances of all pairs come from matrix products,
    $\sum_i (z_i-\mu_{ki})^2/\sigma_{ki}^2 = \sum_i z_i^2\sigma_{ki}^{-2} - 2 z_i\mu_{ki}\sigma_{ki}^{-2}
    + \mu_{ki}^2\sigma_{ki}^{-2}$, many times faster than differences.  Their rounding, that of a float
    times the largest of the three sums, is of nats for narrow components in float32; so the four largest components are
    computed anew by differences.
    Shapes: `z` [*batch, M], `mean`, `log_std` [K, M], `log_weights` [K] or [*batch, K] (1/K unless given) -> [*batch], nats.
    Source: Bishop 2006, eq. 9.7; as an aggregated posterior Hoffman & Johnson 2016, section 2.

    >>> one = normal_mixture_log_prob(jnp.zeros(2), jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    >>> round(float(one + jnp.log(2 * jnp.pi)), 5)
    0.0
    """
    if z.shape[-1] != mean.shape[-1]:
        raise ValueError(
            f"this mixture is of vectors of {mean.shape[-1]} numbers, got an array of shape {z.shape}"
        )
    if log_weights is None:
        log_weights = -math.log(len(mean))
    mean, log_std = jnp.asarray(mean), jnp.asarray(log_std)
    centre = jax.lax.stop_gradient(mean.mean(axis=0))
    about, middle, precision = z - centre, mean - centre, jnp.exp(-2 * log_std)

    def product(a, b):
        return jnp.einsum("...i,ki->...k", a, b, precision="highest")

    square = (
        product(about * about, precision)
        - 2 * product(about, middle * precision)
        + jnp.sum(middle * middle * precision, axis=-1)
    )
    constant = jnp.sum(log_std, axis=-1) + 0.5 * math.log(2 * math.pi) * mean.shape[-1]
    each = log_weights - 0.5 * jnp.maximum(square, 0) - constant
    _, top = jax.lax.top_k(jax.lax.stop_gradient(each), min(4, len(mean)))
    weight = jnp.take_along_axis(jnp.broadcast_to(log_weights, each.shape), top, axis=-1)
    exact = weight + densities.normal_log_prob(z[..., None, :], mean[top], log_std[top])
    each = jnp.put_along_axis(each, top, exact, axis=-1, inplace=False)
    return jax.nn.logsumexp(each, axis=-1)
