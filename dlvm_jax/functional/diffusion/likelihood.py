r"""Likelihood of a diffusion model by its probability-flow ODE, and of integer data by dequantisation."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional.diffusion.ode import probability_flow
from dlvm_jax.functional.diffusion.process import Process, prior_log_prob
from dlvm_jax.functional.diffusion.score_matching import exact_divergence, hutchinson_divergence
from dlvm_jax.functional.diffusion.solvers import log_snr_times
from dlvm_jax.functional.flows.image import dequantise
from dlvm_jax.functional.numerics import log_mean_exp, runge_kutta
from dlvm_jax.functional.types import Array, Denoiser, Key

__all__ = ["dequantised_log_prob", "log_likelihood"]


def log_likelihood(
    process: Process,
    denoise: Denoiser,
    x: Array,
    steps: int = 100,
    event_ndim: int = 1,
    probe: Array | None = None,
    prior: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    r"""Log-density of the noisy data at t_min under the probability-flow ODE, and where each point ends.

    $\log p(x_{t_{\min}}) = \log p(x_T) + \int_{t_{\min}}^{t_{\max}}\nabla\cdot\frac{dx}{dt}\,dt$

    The cut-off t_min is part of the answer (`process._replace(t_min=...)`): it is the density of x with the noise of t_min.
    Shapes: `x`, `probe` [*batch, *event] -> (log-density [*batch] in nats, x_T [*batch, *event]), all in float32 or wider.
    denoise: (x, t) -> expected clean point, row by row.
    steps: of Runge-Kutta of order four, equal in log-SNR; look at the answer with twice as many too.
    probe: a Rademacher draw, kept along the whole path, which estimates the divergence without bias.  Without one it is exact,
    with D derivatives an evaluation.
    prior: x_T -> log p(x_T) [*batch]; `process.prior_log_prob` unless given.
    Raises ValueError for points that are not of a floating dtype.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 39.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> log_prob, end = log_likelihood(edm(0.01, 10.0), lambda x, t: 0 * x, jnp.array([[0.02]]))
    >>> bool(jnp.isclose(end[0, 0], 20.0, rtol=1e-3)), bool(jnp.isclose(log_prob[0], -2 - jnp.log(0.02507), atol=1e-3))
    (True, True)
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"a density needs points of a floating dtype, got {x.dtype}; give integer levels to dequantised_log_prob"
        )
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, probe = x.astype(wide), None if probe is None else jnp.asarray(probe, wide)
    grid = log_snr_times(process, 2 * steps)[::-1].astype(wide)
    span = process.log_snr(grid[-1]) - process.log_snr(grid[0])

    def slope(state, t):
        _, fall = jax.jvp(process.log_snr, (t,), (jnp.ones_like(t),))
        field = lambda x: probability_flow(process, denoise, x, t) / fall
        if probe is None:
            return exact_divergence(field, state[0], event_ndim)
        return hutchinson_divergence(field, state[0], probe, event_ndim)

    start = (x, jnp.zeros(x.shape[: x.ndim - event_ndim], wide))
    end, change = runge_kutta(slope, start, grid, span)
    log_prior = prior_log_prob(process, end, event_ndim) if prior is None else prior(end)
    return log_prior + change, end


def dequantised_log_prob(
    key: Key,
    log_prob: Callable[[Array], Array],
    x: Array,
    levels: int = 256,
    draws: int = 1,
    event_ndim: int = 1,
) -> Array:
    r"""Log-probability of integer levels from a density on [-1, 1], by uniform dequantisation.

    $\log\frac1K\sum_k p\big(2\tfrac{x+u_k}{L}-1\big) + D\log\tfrac2L,\quad u_k\sim U[0,1)^D$

    The mean inside the logarithm estimates P(x) without bias (kind "weight"): a bound that tightens with K, as the mean of
    K logarithms does not.  The last term is the width of a bin: log2(L / 2), 7 bits per dimension for 256 levels.  The noise is
    that of `dequantise`: of up to 256 levels the points stay strictly inside (-1, 1).
    Shapes: `x` in 0..L-1 [*batch, *event] -> [*batch], nats.
    log_prob: points [*batch, *event] -> [*batch].
    draws: K, one after another.
    Raises ValueError for fewer than one draw or level.
    Source: Theis, van den Oord, Bethge 2016, section 3.1; Lipman et al. 2023.

    >>> uniform = lambda y: jnp.full(y.shape[:-1], 2 * math.log(0.5))
    >>> key, x = jax.random.key(0), jnp.zeros((1, 2))
    >>> bool(jnp.isclose(dequantised_log_prob(key, uniform, x)[0], -2 * math.log(256), rtol=1e-6))
    True
    """
    if draws < 1 or levels < 1:
        raise ValueError(f"there is at least one draw of at least one level, got {draws} of {levels}")
    dim = math.prod(jnp.shape(x)[jnp.ndim(x) - event_ndim :])
    each = jax.lax.map(
        lambda key: log_prob(2 * dequantise(key, x, levels, event_ndim)[0] - 1), jax.random.split(key, draws)
    )
    return log_mean_exp(each) + dim * math.log(2 / levels)
