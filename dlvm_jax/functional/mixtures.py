"""Mixtures of diagonal Gaussians, with the cost of a matrix product."""

import math

import jax
import jax.numpy as jnp

__all__ = ["normal_mixture_log_prob"]


def normal_mixture_log_prob(z, mean, log_std, log_weights=None):
    r"""Log-density of a mixture of diagonal Gaussians.

    $\log p(z) = \log\sum_k w_k\,\mathcal N(z\mid\mu_k,\sigma_k^2)$

    The sum over dimensions is inside the logarithm.  The squared distances of all pairs come from matrix products,
    $\sum_i (z_i-\mu_{ki})^2/\sigma_{ki}^2 = \sum_i z_i^2\sigma_{ki}^{-2} - 2 z_i\mu_{ki}\sigma_{ki}^{-2}
    + \mu_{ki}^2\sigma_{ki}^{-2}$, many times faster than differences; the rounding error in nats is about that of a float
    times the largest of the three sums (float32: 1e-3 for sums of 1e4), after the centre of the means is taken out.
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
    centre = jax.lax.stop_gradient(mean.mean(axis=0))
    z, mean, precision = z - centre, mean - centre, jnp.exp(-2 * log_std)

    def product(a, b):
        return jnp.einsum("...i,ki->...k", a, b, precision="highest")

    square = (
        product(z * z, precision)
        - 2 * product(z, mean * precision)
        + jnp.sum(mean * mean * precision, axis=-1)
    )
    constant = jnp.sum(log_std, axis=-1) + 0.5 * math.log(2 * math.pi) * mean.shape[-1]
    return jax.nn.logsumexp(log_weights - 0.5 * jnp.maximum(square, 0) - constant, axis=-1)
