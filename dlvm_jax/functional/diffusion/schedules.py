"""Noise schedules: the processes of the literature, continuous and as tables.  See `process` for what follows from them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from dlvm_jax.functional.diffusion.process import Process
from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array, Numeric

__all__ = [
    "cosine_betas",
    "edm",
    "from_recursion",
    "linear_betas",
    "linear_log_snr",
    "piecewise_log_snr",
    "rectified",
    "sub_variance_preserving",
    "variance_exploding",
    "variance_preserving",
]


def _checked(name, low, high):
    if not 0 < low < high < math.inf:
        raise ValueError(f"{name} needs two rising positive ends, got {low} and {high}")


def linear_log_snr(low: float = -5.0, high: float = 13.3) -> Process:
    r"""Variance-preserving process whose log signal-to-noise ratio falls linearly (VDM).

    $\lambda(t) = \lambda_{\max} - (\lambda_{\max}-\lambda_{\min})\,t,\quad \alpha_t^2 = \mathrm{sigmoid}(\lambda(t))$

    Raises ValueError unless low < high, both finite.  Shapes: scalars -> `Process`.
    Source: Kingma, Salimans, Poole, Ho 2021, section 3.2 (gamma = -lambda).

    >>> bool(jnp.isclose(linear_log_snr().log_snr(1.0), -5.0))
    True
    """
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"the log signal-to-noise ratio needs finite low < high, got {low} and {high}")
    return _preserving(lambda t: high - (high - low) * _time(t), 0.0)


def piecewise_log_snr(low: Numeric, high: Numeric, logits: Array) -> Process:
    r"""Variance-preserving process with a learned monotone schedule: linear between equally spaced times.

    $\lambda(k/K) = \lambda_{\max} - (\lambda_{\max}-\lambda_{\min})\sum_{j\le k}\mathrm{softmax}(l)_j$

    Shapes: `low`, `high` scalars (may be trained), `logits` [K]; equal logits give the linear schedule.  Raises ValueError for
    logits of another shape, and unless low < high, both finite, where they are concrete.
    Source: Kingma, Salimans, Poole, Ho 2021, section 3.2: any monotone function with trained ends.

    >>> bool(jnp.isclose(piecewise_log_snr(-5.0, 13.0, jnp.zeros(4)).log_snr(0.5), 4.0))
    True
    """

    if jnp.ndim(logits) != 1 or jnp.size(logits) == 0:
        raise ValueError(f"logits are one number for each piece, got shape {jnp.shape(logits)}")
    if not isinstance(logits, Tracer) and not np.isfinite(np.asarray(logits)).all():
        raise ValueError(f"logits are finite, got {logits}")
    known = not any(isinstance(end, Tracer) for end in (low, high))
    if known and not -math.inf < low < high < math.inf:
        raise ValueError(f"the log signal-to-noise ratio needs finite low < high, got {low} and {high}")

    def log_snr(t):
        fall = jnp.cumsum(jnp.pad(jax.nn.softmax(jnp.asarray(logits)), (1, 0)))
        return high - (high - low) * jnp.interp(_time(t), jnp.linspace(0.0, 1.0, len(fall)), fall)

    return _preserving(log_snr, 0.0)._replace(smooth=False)


def _preserving(log_snr, t_min):
    return Process(log_snr, lambda t: -0.5 * jax.nn.softplus(-log_snr(t)), t_min, 1.0)


def _time(t):
    """A time in float32 at least: integers would wrap, and in a narrower type neighbours coincide."""
    t, wide = jnp.asarray(t), as_wide(t)
    return t if t.dtype == wide.dtype else wide  # a Python number stays weakly typed


def _beta_integral(t, beta_min, beta_max):
    t = _time(t)
    return t * (beta_min + 0.5 * t * (beta_max - beta_min))


def variance_preserving(beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    r"""Variance-preserving process with linear beta(t): alpha_t^2 + sigma_t^2 = 1.

    $\alpha_t^2 = e^{-B(t)},\ \sigma_t^2 = 1-e^{-B(t)},\quad B(t) = \int_0^t\beta(u)\,du
        = \beta_{\min}t + \tfrac12(\beta_{\max}-\beta_{\min})t^2$

    t in [1e-5, 1]; t = 0 is clean.  Raises ValueError unless 0 < beta_min < beta_max.
    Shapes: scalars -> `Process`.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 32 and 33.

    >>> round(float(jnp.exp(variance_preserving().log_alpha(1.0))), 5)
    0.00657
    """
    _checked("beta", beta_min, beta_max)

    def log_snr(t):
        integral = _beta_integral(t, beta_min, beta_max)
        return -integral - jnp.log(-jnp.expm1(-integral))  # -log(expm1(B)) would overflow

    return Process(log_snr, lambda t: -0.5 * _beta_integral(t, beta_min, beta_max), 1e-5, 1.0)


def sub_variance_preserving(beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    r"""Sub-variance-preserving process: the same mean as the variance-preserving one, less variance at each t.

    $\alpha_t^2 = e^{-B(t)},\ \sigma_t = 1-e^{-B(t)},\quad B(t) = \beta_{\min}t + \tfrac12(\beta_{\max}-\beta_{\min})t^2$

    t in [1e-5, 1]; t = 0 is clean.  Raises ValueError unless 0 < beta_min < beta_max.
    Shapes: scalars -> `Process`.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 28 and 29.

    >>> bool(sub_variance_preserving().log_snr(0.5) > variance_preserving().log_snr(0.5))
    True
    """
    _checked("beta", beta_min, beta_max)

    def log_snr(t):
        integral = _beta_integral(t, beta_min, beta_max)
        return -integral - 2 * jnp.log(-jnp.expm1(-integral))

    return Process(log_snr, lambda t: -0.5 * _beta_integral(t, beta_min, beta_max), 1e-5, 1.0)


def variance_exploding(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    r"""Variance-exploding process with geometric noise levels (NCSN, SMLD).

    $\alpha_t = 1,\quad \sigma_t = \sigma_{\min}(\sigma_{\max}/\sigma_{\min})^t$

    t in [0, 1]; t = 0 still has the noise sigma_min.  Raises ValueError unless 0 < sigma_min < sigma_max.
    Shapes: scalars -> `Process`.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 30.

    >>> round(float(jnp.exp(-0.5 * variance_exploding(0.01, 1.0).log_snr(0.5))), 4)
    0.1
    """
    _checked("sigma", sigma_min, sigma_max)
    low, span = math.log(sigma_min), math.log(sigma_max / sigma_min)
    return Process(
        lambda t: -2 * (low + span * _time(t)),
        lambda t: jnp.zeros_like(_time(t)),
        0.0,
        1.0,
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    r"""The process of EDM: time is the noise level.

    $\alpha_t = 1,\quad \sigma_t = t,\quad t\in[\sigma_{\min},\sigma_{\max}]$

    t = 0 is clean.  Raises ValueError unless 0 < sigma_min < sigma_max.
    Shapes: scalars -> `Process`.
    Source: Karras, Aittala, Aila, Laine 2022, table 1.

    >>> float(jnp.exp(-0.5 * edm().log_snr(2.0)).round(6))
    2.0
    """
    _checked("sigma", sigma_min, sigma_max)
    return Process(
        lambda t: -2 * jnp.log(_time(t)),
        lambda t: jnp.zeros_like(_time(t)),
        sigma_min,
        sigma_max,
    )


def rectified() -> Process:
    r"""The straight path of rectified flow and flow matching (optimal-transport path).

    $\alpha_t = 1-t,\quad \sigma_t = t$

    t in [1e-5, 1 - 1e-4], and t = 0 is clean.  alpha_1 = 0 has no signal, and nearer to it float32 has too few different times
    for a grid of a thousand noise levels.
    Shapes: scalars -> `Process`.
    Source: Liu, Gong, Liu 2023, eq. 1; Lipman et al. 2023, eq. 20 with sigma_min = 0 and time reversed.

    >>> float(jnp.exp(0.5 * rectified().log_snr(0.25)).round(6))
    3.0
    """
    return Process(
        lambda t: 2 * (jnp.log1p(-_time(t)) - jnp.log(_time(t))),
        lambda t: jnp.log1p(-_time(t)),
        1e-5,
        1 - 1e-4,
    )


def _check_steps(steps):
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"a table has a whole number of steps, one or more, got {steps!r}")


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    r"""The variances of DDPM.

    $\beta_t = \beta_1 + \tfrac{t-1}{T-1}(\beta_T-\beta_1),\ t=1,\ldots,T$

    Shapes: -> numpy float64 [T].  For other T the published table is often rescaled: first = 0.1 / T, last = 20 / T.  Raises
    ValueError for no steps.
    Source: Ho, Jain, Abbeel 2020, section 4.

    >>> [round(float(beta), 6) for beta in linear_betas(3)]
    [0.0001, 0.01005, 0.02]
    """
    _check_steps(steps)
    return np.linspace(first, last, steps)


def cosine_betas(steps: int = 1000, offset: float = 0.008, cap: float = 0.999) -> np.ndarray:
    r"""The variances of the cosine schedule, with the cap that belongs to it.

    $\beta_t = \min(1 - \bar\alpha_t/\bar\alpha_{t-1},\ 0.999),\quad \bar\alpha_t \propto \cos^2\frac{\pi}{2}\frac{t/T+s}{1+s}$

    Shapes: -> numpy float64 [T].  Raises ValueError for no steps.  Source: Nichol & Dhariwal 2021, eq. 17.

    >>> float(cosine_betas(1000)[-1])
    0.999
    """
    _check_steps(steps)
    levels = np.cos(np.pi / 2 * (np.arange(steps + 1) / steps + offset) / (1 + offset)) ** 2
    return np.minimum(1 - levels[1:] / levels[:-1], cap)


def from_recursion(betas: ArrayLike, alphas: ArrayLike | None = None) -> Process:
    r"""The process of a discrete Markov chain, with general alpha_t and beta_t; variance preserving by default.

    $x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{\beta_t}\,\epsilon:\quad \bar\alpha_t = \alpha_t\bar\alpha_{t-1},\
        \bar\beta_t = \alpha_t\bar\beta_{t-1} + \beta_t$

    Shapes: `betas`, `alphas` [T] (numpy, summed in float64; alphas = 1 - betas when not given).  Step i is at t = i / T, where
    the table is exact, and t = 0 is clean.  Between two steps $L = \log(1+\bar\beta/\bar\alpha)$ is a monotone cubic with a
    continuous slope, from 0 at t = 0, and log-SNR is $-\log(e^L-1)$.  A preserving chain has $\bar\alpha = e^{-L}$ at all
    times; in any other $\log\bar\alpha$ is a cubic too.
    For a variance-exploding chain alphas = 1 and beta_t = sigma_t^2 - sigma_{t-1}^2 (without a root).  Raises ValueError for no
    steps, for variances that are not positive and for products that are not finite.
    Source: Ho, Jain, Abbeel 2020, eq. 2 and 4, for general alpha.

    >>> chain = from_recursion(linear_betas(1000))
    >>> round(float(jnp.exp(2 * chain.log_alpha(1.0))) * 1e5, 2)
    4.04
    """
    betas = np.asarray(betas, np.float64)
    scales = 1 - betas if alphas is None else np.asarray(alphas, np.float64)
    if betas.ndim == 1 and not betas.size:
        raise ValueError("a chain needs at least one step, got no variances")
    if betas.ndim != 1 or scales.shape != betas.shape or not (betas > 0).all():
        raise ValueError(
            f"a chain needs as many positive variances as scales, got {betas.shape} and {scales.shape} "
            f"with smallest variance {betas.min(initial=np.inf)}"
        )
    if not (scales > 0).all():
        raise ValueError("alphas must be positive, and betas of a variance-preserving chain below 1")
    log_alphas = np.log1p(-betas) if alphas is None else np.log(scales)
    log_alpha_bar = np.cumsum(log_alphas)
    if alphas is None:
        log_beta_bar = np.log(-np.expm1(log_alpha_bar))
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            log_beta_bar = log_alpha_bar + np.log(np.cumsum(betas * np.exp(-log_alpha_bar)))
    if not np.isfinite([log_alpha_bar, log_beta_bar]).all():
        raise ValueError(
            f"variances, scales and their products must be finite, got scales down to {scales.min()}"
        )
    return _table(log_alpha_bar, log_beta_bar, np.array_equal(scales, 1 - betas))


def _cubic(values, monotone):
    """Coefficients [3, T + 1] of the powers 1, 2, 3 of the way into a cell, of a cubic through 0 and T values; a line after them.

    Slopes are central differences; `monotone` ones at most twice the smaller chord, so that the cubic rises strictly.
    """
    values = np.append(0.0, values)
    chords = np.diff(values)
    slopes = np.gradient(values, edge_order=2 if len(chords) > 1 else 1)
    if monotone:
        slopes = np.clip(
            slopes, 0.0, 2 * np.minimum(np.append(chords[0], chords), np.append(chords, chords[-1]))
        )
    before, after = slopes[:-1], slopes[1:]
    return np.stack(
        [
            slopes,
            np.append(3 * chords - 2 * before - after, 0.0),
            np.append(before + after - 2 * chords, 0.0),
        ]
    )


def _table(log_alpha_bar, log_beta_bar, preserving):
    """The process with these values at t = 1 / T, ..., 1: what it is in between is a change from the step before."""
    steps, log_snr = len(log_alpha_bar), log_alpha_bar - log_beta_bar
    rise = _cubic(np.logaddexp(0.0, -log_snr), True)  # of L = log(1 + exp(-log_snr))
    drop = None if preserving else _cubic(0.5 * log_alpha_bar, False)
    at_step = np.stack([np.append(np.inf, log_snr), np.append(0.0, 0.5 * log_alpha_bar)])
    variance = 1 / (1 + np.exp(log_snr))  # sigma^2 / (alpha^2 + sigma^2)

    def place_of(t):
        """The step before t, and the way from it, in steps."""
        place = _time(t) * steps
        nearest = jnp.round(place)
        near = (
            jnp.abs(place - nearest) <= 8 * jnp.finfo(place.dtype).eps * nearest
        )  # i / T * T is i but for rounding
        place = place + lax.stop_gradient(jnp.where(near, nearest - place, 0.0))
        step = jnp.clip(jnp.floor(lax.stop_gradient(place)), 0, steps).astype(int)
        return step, place - step

    def change(coefficients, step, way):
        first, second, third = jnp.asarray(coefficients, way.dtype)[:, step]
        return way * (first + way * (second + way * third))

    def log_snr_at(t):
        step, way = place_of(t)
        clean = (step == 0) & (way <= 0)
        gain = jnp.expm1(change(rise, step, jnp.where(clean, 1.0, way)))
        start = jnp.asarray(at_step[0], way.dtype)[step]
        share = jnp.asarray(np.append(1.0, variance), way.dtype)[step]
        first = -jnp.log(jnp.where(step == 0, gain, 1.0))
        later = start - jnp.log1p(jnp.where(step == 0, 0.0, gain) / share)
        return jnp.where(clean, jnp.inf, jnp.where(step == 0, first, later))

    def log_alpha_at(t):
        step, way = place_of(t)
        start = jnp.asarray(at_step[1], way.dtype)[step]
        return start + (-0.5 * change(rise, step, way) if drop is None else change(drop, step, way))

    return Process(log_snr_at, log_alpha_at, 1 / steps, 1.0, steps, smooth=False)
