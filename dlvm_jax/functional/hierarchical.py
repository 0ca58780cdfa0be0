"""Several layers of latent variables: KL of a residual posterior, ladders, balance of layers, temperature, spectral norms.

In the state of a layer a Gaussian is a mean and a log-standard deviation, as everywhere.
"""

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide, norm, sum_event
from dlvm_jax.functional.types import Array, Numeric

__all__ = [
    "balancing_coefficients",
    "free_bits",
    "kl_residual",
    "power_iteration",
    "precision_weighted",
    "tempered",
]


def kl_residual(shift: Numeric, log_scale: Numeric, log_std_p: Numeric, event_ndim: int = 1) -> Array:
    r"""KL of a Gaussian posterior that is given relative to the prior.

    $q=\mathcal N(\mu+\Delta\mu,(\sigma\,\Delta\sigma)^2),\ p=\mathcal N(\mu,\sigma^2):\quad
    \mathrm{KL} = \tfrac12\sum_i \frac{\Delta\mu_i^2}{\sigma_i^2} + \Delta\sigma_i^2 - \log\Delta\sigma_i^2 - 1$

    shift, log_scale: Delta mu and log Delta sigma
    Shapes: all broadcast to [*batch, *event] -> [*batch], nats.  `expm1` keeps it accurate near q = p.
    Source: Vahdat & Kautz 2020, eq. 2.

    >>> float(kl_residual(jnp.ones(1), 0.0, 0.0))
    0.5
    """
    shift, log_scale, log_std_p = as_wide(shift, log_scale, log_std_p)
    distance = shift * jnp.exp(-log_std_p)
    return sum_event(0.5 * (jnp.expm1(2 * log_scale) - 2 * log_scale + jnp.square(distance)), event_ndim)


def precision_weighted(
    mean_1: Numeric, log_std_1: Numeric, mean_2: Numeric, log_std_2: Numeric
) -> tuple[Array, Array]:
    r"""Mean and log-standard deviation of the normalised product of two Gaussians.

    $\sigma^{-2} = \sigma_1^{-2}+\sigma_2^{-2},\quad \mu = \sigma^2(\mu_1\sigma_1^{-2}+\mu_2\sigma_2^{-2})$

    Joins what a ladder sees from below with what it expects from above.  Nothing overflows: the weights are a sigmoid.
    Shapes: all broadcast to [*batch, *event] -> the same, twice.  Source: Sonderby et al. 2016, eq. 18 and 19.

    >>> [float(x) for x in precision_weighted(1.0, 0.0, 3.0, 0.0)]
    [2.0, -0.3465735912322998]
    """
    mean_1, log_std_1, mean_2, log_std_2 = as_wide(mean_1, log_std_1, mean_2, log_std_2)
    share = jax.nn.sigmoid(2 * (log_std_2 - log_std_1))  # of the first one's precision
    mean = mean_2 + share * (mean_1 - mean_2)
    return mean, -0.5 * jnp.logaddexp(-2 * log_std_1, -2 * log_std_2)


def balancing_coefficients(kl: Array, sizes: Array) -> Array:
    r"""Coefficients that spread the KL over the layers, constants of the gradient.

    $\gamma_l = \frac{L\,g_l}{\sum_m g_m},\quad g_l = \frac{0.01+\mathbb E_x|\mathrm{KL}_l|}{\alpha_l}$

    A layer that says much pays more, so that the others are used too; their mean is 1.  The KL of one draw may be negative.
    kl: the KL of each layer, the batch in front
    sizes: alpha_l, the share that a layer is expected to carry, such as its area divided by the groups of its resolution
    Shapes: [*batch, L], [L] -> [L].  Source: Vahdat & Kautz 2020, appendix A.

    >>> balancing_coefficients(jnp.array([[3.0, 1.0]]), jnp.ones(2)).round(2).tolist()
    [1.5, 0.5]
    """
    kl, sizes = as_wide(kl, sizes)
    if kl.ndim < 1 or sizes.shape != kl.shape[-1:]:
        raise ValueError(
            f"sizes hold one number for each layer, got shape {sizes.shape} for a KL of shape {kl.shape}"
        )
    mean = jnp.mean(jnp.abs(kl).reshape(-1, kl.shape[-1]), axis=0)
    weight = (0.01 + mean) / sizes
    return jax.lax.stop_gradient(weight / jnp.mean(weight))


def free_bits(kl: Array, nats: Numeric) -> Array:
    r"""KL of several layers, or units, of which each may spend so many nats at no cost.

    $\sum_l\max(\lambda, \mathbb E_x[\mathrm{KL}_l])$, the mean over the minibatch inside of the maximum

    Shapes: [*batch, L] -> a scalar, nats.  Source: Kingma et al. 2016, eq. 15.

    >>> float(free_bits(jnp.array([[0.0, 2.0], [0.5, 4.0]]), 1.0))
    4.0
    """
    kl, nats = as_wide(kl, nats)
    if kl.ndim < 1:
        raise ValueError("free bits are of several layers or units, the last axis, got a KL without axes")
    return jnp.maximum(jnp.mean(kl.reshape(-1, kl.shape[-1]), axis=0), nats).sum()


def tempered(log_std: Numeric, temperature: Numeric) -> Array:
    r"""Log-standard deviation of a Gaussian layer at a temperature.

    $\log\sigma + \log t$: at t = 0 every draw is the mean

    Shapes: broadcast, [*batch, *event] -> the same.
    Source: Vahdat & Kautz 2020, section 4 (sampling).

    >>> float(tempered(0.0, 0.0))
    -inf
    """
    log_std, temperature = as_wide(log_std, temperature)
    return log_std + jnp.log(temperature)


def power_iteration(matrix: Array, vector: Array, steps: int = 1) -> tuple[Array, Array]:
    r"""Largest singular value of a matrix from a guess of its left singular vector, and a better guess.

    $v \leftarrow W^\top u/\|W^\top u\|,\quad u \leftarrow Wv/\|Wv\|,\quad \sigma = u^\top W v$

    The gradient goes through W in the last product alone.  A convolution's kernel is a matrix [outputs, everything else].
    vector: u, kept from step to step; any vector that is not orthogonal to the first singular vector will do
    Shapes: [*batch, m, n], [*batch, m] -> [*batch], [*batch, m].  Raises ValueError for less than one step.
    Source: Miyato et al. 2018, algorithm 1.

    >>> float(power_iteration(jnp.diag(jnp.array([1.0, 3.0])), jnp.ones(2), 20)[0].round(4))
    3.0
    """
    matrix, vector = as_wide(matrix, vector)
    if matrix.ndim < 2 or vector.shape != matrix.shape[:-1]:
        raise ValueError(
            f"a matrix [*batch, m, n] has a left vector [*batch, m], got shapes {matrix.shape} and {vector.shape}"
        )
    if steps < 1:
        raise ValueError(f"a power iteration takes at least one step, got {steps}")
    fixed = jax.lax.stop_gradient(matrix)

    def unit(x):
        return x / jnp.maximum(norm(x), jnp.finfo(x.dtype).tiny)[..., None]

    def step(_, pair):
        right = unit(jnp.einsum("...mn,...m->...n", fixed, pair[0]))
        return unit(jnp.einsum("...mn,...n->...m", fixed, right)), right

    start = jax.lax.stop_gradient(vector), jnp.zeros((*matrix.shape[:-2], matrix.shape[-1]), matrix.dtype)
    left, right = jax.lax.fori_loop(0, steps, step, start)
    return jnp.einsum("...m,...mn,...n->...", left, matrix, right), left
