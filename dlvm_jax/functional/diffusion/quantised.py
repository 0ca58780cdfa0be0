"""Integer data as points of [-1, 1], and real data in bins: what a noisy point says about them.

All functions here take L times the memory of a point for its L levels or bins, but for `unit_levels` and `gaussian_decoder`.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from dlvm_jax.functional.densities import discretised_normal_log_prob
from dlvm_jax.functional.diffusion.process import Process, alpha, expand_to_event, sigma
from dlvm_jax.functional.numerics import (
    GAUSS_NODES,
    GAUSS_WEIGHTS,
    as_float,
    as_wide,
    log1mexp,
    sum_event,
)
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["categorical_decoder", "expected_in_bins", "expected_level", "gaussian_decoder", "unit_levels"]


def unit_levels(x: Array, levels: int = 256) -> Array:
    r"""Integer levels as points of [-1, 1], whose ends are the first and the last level.

    $y = \frac{2x}{L-1}-1$

    The spacing is 2 / (L - 1), not 2 / L.  Shapes: any -> same.  Raises ValueError for fewer than two levels.
    Source: Ho, Jain, Abbeel 2020, section 3.3.

    >>> unit_levels(jnp.array([0, 255])).tolist()
    [-1.0, 1.0]
    """
    if levels < 2:
        raise ValueError(f"levels on [-1, 1] are two or more, got {levels}")
    return 2 * as_float(x) / (levels - 1) - 1


def gaussian_decoder(
    x: Array, mean: Numeric, log_std: Numeric, levels: int = 256, event_ndim: int = 1
) -> Array:
    r"""Log-probability of integer levels under a Gaussian on [-1, 1], cut into bins around them (a term $L_0$).

    $\log p(x\mid x_1) = \sum_i\log\int_{y_i-1/(L-1)}^{y_i+1/(L-1)}\mathcal N(u\mid\mu_i,\sigma^2)\,du,\quad y = 2x/(L-1)-1$

    The end bins reach to infinity.  Shapes: `x` in 0..L-1, `mean`, `log_std` (on the scale of `unit_levels`) broadcast to
    [*batch, *event] -> [*batch], nats.  Raises ValueError for fewer than two levels.
    Source: Ho, Jain, Abbeel 2020, eq. 13.

    >>> bool(gaussian_decoder(jnp.zeros(1), unit_levels(jnp.zeros(1)), -9.0) > -1e-6)
    True
    """
    x, mean, log_std = as_wide(x), as_wide(mean), as_wide(log_std)
    # from [-1, 1] with ends at the levels to [0, 1] with ends at the outer edges
    half = 0.5 * (levels - 1) / levels
    return discretised_normal_log_prob(x, 0.5 + half * mean, log_std + jnp.log(half), levels, event_ndim)


def _log_likelihoods(process, z, t, levels):
    """log q(z | level) of every level less that of the nearest one: [*batch, *event] -> [*batch, *event, L].

    (z - a y_k)^2 - (z - a y_j)^2 as a product, which is exactly 0 for the nearest j.  The squares themselves reach 1e12 where
    little noise is left, and their rounding is then larger than an exponential can hold.
    """
    a, s = (expand_to_event(f(process, t), z)[..., None] for f in (alpha, sigma))
    z, y = z[..., None], unit_levels(jnp.arange(levels), levels)
    near = unit_levels(jnp.argmin(jnp.abs(z - a * y), axis=-1, keepdims=True), levels)
    return -0.5 * (a / s) * (near - y) * ((2 * z - a * (near + y)) / s)


def categorical_decoder(
    process: Process, x: Array, z: Array, t: Numeric, levels: int = 256, event_ndim: int = 1
) -> Array:
    r"""Log-probability of integer levels given a slightly noisy point: each level by its likelihood (a term $L_0$).

    $p(x\mid z) = \prod_i\mathrm{softmax}_{x_i}\big(-\tfrac{(z_i-\alpha_ty_k)^2}{2\sigma_t^2}\big),\quad y_k = \frac{2k}{L-1}-1$

    Shapes: `x` in 0..L-1, `z` [*batch, *event], t scalar or [*batch] -> [*batch], nats; takes L times the memory of z.
    NaN for an x that is no level.  Raises ValueError for fewer than two levels.
    Source: Kingma, Salimans, Poole, Ho 2021, section 3.3, eq. 8.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> float(jnp.exp(categorical_decoder(edm(), jnp.ones(1), jnp.zeros(1), 2.0, levels=2)))
    0.5
    """
    logits = _log_likelihoods(process, z, t, levels)
    x = as_float(x)
    level = (x >= 0) & (x < levels) & (x == jnp.floor(x))
    chosen = jnp.where(level, x, 0).astype(int)[..., None]
    each = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), chosen, axis=-1)[..., 0]
    return sum_event(jnp.where(level, each, jnp.nan), event_ndim)


def expected_level(process: Process, logits: Array, z: Array, t: Numeric) -> Array:
    r"""The clean point that is expected of a noisy one, given a distribution over the levels of each element.

    $\hat x_i = \sum_k y_k\,\mathrm{softmax}_k\big(\ell_{ik}-\tfrac{(z_i-\alpha_ty_k)^2}{2\sigma_t^2}\big),\quad
        y_k = \frac{2k}{L-1}-1$

    Bayes' rule for a prior softmax(logits) over the levels of element i: what a network says of them from the other elements
    is joined with what z_i itself says, which is known.  With the logarithm of the true frequencies of independent elements
    it is the exact denoiser, and the bound is tight.  Shapes: `logits` [*batch, *event, L], `z` [*batch, *event], t scalar or
    [*batch] -> [*batch, *event].  Source: Bayes' rule; Kingma, Salimans, Poole, Ho 2021, eq. 8, with a prior.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> expected_level(edm(), logits, jnp.zeros(1), 2.0).round(5).tolist()
    [0.5]
    """
    levels = logits.shape[-1]
    weights = jax.nn.softmax(logits + _log_likelihoods(process, z, t, levels), axis=-1)
    return jnp.matmul(weights, unit_levels(jnp.arange(levels), levels), precision="highest")


def _mean_in_wide_bins(logits, u, s, edges):
    """Of a histogram times N(u, s^2), by the formula of `expected_in_bins`, whose error grows as s / width squared."""
    a = (edges - u[..., None]) / s[..., None]
    left, right = a[..., :-1], a[..., 1:]
    over = left + right > 0  # masses far out are differences in the lower tail, where digits are left
    near, far = jnp.where(over, -left, right), jnp.where(over, -right, left)
    log_near = log_ndtr(near)
    log_mass = log_near + log1mexp(jnp.maximum(log_near - log_ndtr(far), jnp.finfo(a.dtype).tiny))
    log_normal = -0.5 * jnp.square(a) - 0.5 * math.log(2 * math.pi)
    log_height = logits - jax.nn.logsumexp(logits + log_mass, axis=-1, keepdims=True)
    log_height = jnp.pad(log_height, [(0, 0)] * u.ndim + [(1, 1)], constant_values=-jnp.inf)
    steps = jnp.exp(log_height[..., 1:] + log_normal) - jnp.exp(log_height[..., :-1] + log_normal)
    mean = u + s * jnp.sum(steps, axis=-1)
    return jnp.clip(mean, edges[0], edges[-1])  # far beyond the bins float32 has no digits left


def _mean_in_narrow_bins(logits, u, s, edges):
    """Of a histogram times N(u, s^2), without differences: the density in a bin is exp(slope v - (width v)^2 / 2), |v| < 1/2.

    Gauss-Legendre is exact to rounding here.  All lengths are from the middle of the range, and what the bins have in common
    is left out of their masses.  The slope is bounded for points far beyond the bins.
    """
    middle, s = 0.5 * (edges[0] + edges[-1]), s[..., None]
    u, centre = u[..., None] - middle, 0.5 * (edges[1:] + edges[:-1]) - middle
    size = (edges[-1] - edges[0]) / len(centre)
    width = size / s
    slope = jnp.clip(width * (u - centre) / s, -30.0, 30.0)
    nodes = [
        (v, w * jnp.exp(slope * v - 0.5 * jnp.square(width * v)))
        for v, w in zip((GAUSS_NODES / 2).tolist(), (GAUSS_WEIGHTS / 2).tolist(), strict=True)
    ]
    mass, moment = sum(f for _, f in nodes), sum(v * f for v, f in nodes)
    log_mass = centre / s * ((u - 0.5 * centre) / s) + jnp.log(mass)
    means = centre + size * moment / mass
    return middle + jnp.sum(jax.nn.softmax(logits + log_mass, axis=-1) * means, axis=-1)


def expected_in_bins(process: Process, logits: Array, z: Array, t: Numeric, low: float, high: float) -> Array:
    r"""The clean point that is expected of a noisy one, given a histogram as the density of each element.

    $\hat x_i = u + s\,\frac{\sum_k p_{ik}\,[\varphi(a_k)-\varphi(a_{k+1})]}{\sum_k p_{ik}\,[\Phi(a_{k+1})-\Phi(a_k)]},\quad
        p_i = \mathrm{softmax}(\ell_i),\ u = \tfrac{z_i}{\alpha_t},\ s = \tfrac{\sigma_t}{\alpha_t},\ a_k = \tfrac{e_k-u}{s}$

    with the edges e_0 = low, ..., e_L = high of L equal bins: the mean of a mixture of truncated Gaussians, which is what
    Bayes' rule makes of a density that is constant in each bin.  As in `expected_level`, a network says what an element may be
    from the others, and what z_i itself says is known.  Where the bins are much narrower than s the differences would cancel,
    and quadrature takes their place.
    Shapes: `logits` [*batch, *event, L], `z` [*batch, *event], t scalar or [*batch], Python floats `low` < `high` ->
    [*batch, *event].  Source: Bayes' rule; Johnson, Kotz, Balakrishnan 1994, section 13.10.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> expected_in_bins(edm(), jnp.zeros((1, 4)), jnp.array([9.0]), 80.0, -3.0, 5.0).round(2)
    Array([1.01], dtype=float32)
    """
    z, logits = as_wide(z), as_wide(logits)
    s = jnp.broadcast_to(expand_to_event(sigma(process, t) / alpha(process, t), z), z.shape)
    u = z / expand_to_event(alpha(process, t), z)
    edges = jnp.linspace(low, high, logits.shape[-1] + 1, dtype=z.dtype)
    middle, span = 0.5 * (low + high), high - low
    narrow = span / logits.shape[-1] < 0.25 * s  # about where both are right to a few roundings
    # the branch not taken has a harmless u and s, for its gradient
    inside = _mean_in_narrow_bins(logits, jnp.where(narrow, u, middle), jnp.where(narrow, s, span), edges)
    outside = _mean_in_wide_bins(logits, jnp.where(narrow, middle, u), jnp.where(narrow, span, s), edges)
    return jnp.where(narrow, inside, outside)
