r"""Noise processes: Gaussian paths x_t = alpha_t x_0 + sigma_t eps from data to noise, eps ~ N(0, I).

A process is its log signal-to-noise ratio lambda(t) = log(alpha_t^2 / sigma_t^2), which falls with t, and log alpha_t.  All
else follows, in forms that stay exact in float32 where sigma_t is tiny: s < t throughout, so lambda_s > lambda_t.  A time
is a scalar or [*batch], the leading axes of x.  The module `schedules`
makes processes.  A clean point has lambda = inf; every function takes it as s.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.densities import normal_log_prob
from dlvm_jax.functional.numerics import draw_normal
from dlvm_jax.functional.types import Array, Key, Numeric, Shape

__all__ = [
    "Process",
    "alpha",
    "diffuse",
    "diffusion",
    "drift",
    "expand_to_event",
    "posterior",
    "prior_log_prob",
    "prior_sample",
    "sigma",
    "transition",
]


class Process(NamedTuple):
    """A Gaussian path from data to noise.

    log_snr: t -> log(alpha_t^2 / sigma_t^2), falling;  log_alpha: t -> log alpha_t, both elementwise
    t_min, t_max: where continuous time begins and ends;  steps: T of a table, whose times are 1/T, 2/T, ..., 1, or None
    smooth: whether log_snr has all derivatives; of cubics or lines it has not, and `ode.adaptive` counts time in log-SNR
    """

    log_snr: Callable[[Numeric], Array]
    log_alpha: Callable[[Numeric], Numeric]
    t_min: float
    t_max: float
    steps: int | None = None
    smooth: bool = True


def expand_to_event(coefficient: Numeric, x: Array) -> Array:
    r"""One coefficient for each example as an array that multiplies x.

    $c_b \mapsto c_{b,1,\ldots,1}$

    Shapes: `coefficient` [*batch] (or a scalar), `x` [*batch, *event] -> [*batch, 1, ..., 1].  Raises ValueError when the batch
    axes of x are not those of the coefficient.  Source: broadcasting.

    >>> expand_to_event(jnp.ones(2), jnp.ones((2, 3, 4))).shape
    (2, 1, 1)
    """
    coefficient = jnp.asarray(coefficient)
    if x.shape[: coefficient.ndim] != coefficient.shape:
        raise ValueError(
            f"times are a scalar or have the leading axes of x, got shapes {coefficient.shape} and {x.shape}"
        )
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


def alpha(process: Process, t: Numeric) -> Array:
    r"""Scale of the data at time t.

    $\alpha_t$ of $x_t = \alpha_t x_0 + \sigma_t\epsilon$

    Shapes: t any -> same.  Source: Kingma, Salimans, Poole, Ho 2021, eq. 1.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> float(alpha(edm(), 3.0))
    1.0
    """
    return jnp.exp(process.log_alpha(t))


def sigma(process: Process, t: Numeric) -> Array:
    r"""Standard deviation of the noise at time t.

    $\sigma_t = \alpha_t\,e^{-\lambda(t)/2}$

    Exact to a few float32 roundings however small.  Shapes: t any -> same.
    Source: Kingma, Salimans, Poole, Ho 2021, eq. 1 and 2.

    >>> from dlvm_jax.functional.diffusion.schedules import variance_preserving
    >>> bool(jnp.isclose(sigma(variance_preserving(), 1e-5) ** 2, 1.00995e-06, rtol=1e-5))
    True
    """
    return jnp.exp(process.log_alpha(t) - 0.5 * process.log_snr(t))


def diffuse(process: Process, x0: Array, t: Numeric, eps: Array) -> Array:
    r"""A point of the path: the forward kernel q(x_t | x_0) at given noise.

    $x_t = \alpha_t x_0 + \sigma_t\epsilon$

    Shapes: `x0`, `eps` [*batch, *event], t scalar or [*batch] -> [*batch, *event].
    Source: Ho, Jain, Abbeel 2020, eq. 4.

    >>> from dlvm_jax.functional.diffusion.schedules import rectified
    >>> diffuse(rectified(), jnp.zeros(2), 0.5, jnp.ones(2)).tolist()
    [0.5, 0.5]
    """
    return expand_to_event(alpha(process, t), x0) * x0 + expand_to_event(sigma(process, t), x0) * eps


def _root(fall):
    """sqrt(1 - exp(fall)), whose gradient is zero at zero, where the root has none."""
    variance = -jnp.expm1(fall)
    moves = variance != 0
    return jnp.where(moves, jnp.sqrt(jnp.where(moves, variance, 1.0)), 0.0)


def transition(process: Process, s: Numeric, t: Numeric) -> tuple[Array, Array]:
    r"""Forward kernel q(x_t | x_s) = N(scale x_s, std^2 I) between two times s < t.

    $\alpha_{t\mid s} = \alpha_t/\alpha_s,\quad \sigma_{t\mid s}^2 = \sigma_t^2 - \alpha_{t\mid s}^2\sigma_s^2
        = -\sigma_t^2\,\mathrm{expm1}(\lambda_t-\lambda_s)$

    The std is zero, with gradient zero, where s = t.  Shapes: s, t any -> (scale, std), same.
    Source: Kingma, Salimans, Poole, Ho 2021, appendix A.1.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> scale, std = transition(edm(), 3.0, 5.0)
    >>> round(float(scale), 6), round(float(std), 5)
    (1.0, 4.0)
    """
    scale = jnp.exp(process.log_alpha(t) - process.log_alpha(s))
    return scale, sigma(process, t) * _root(process.log_snr(t) - process.log_snr(s))


def posterior(process: Process, x_t: Array, x0: Array, s: Numeric, t: Numeric) -> tuple[Array, Array]:
    r"""Backward kernel q(x_s | x_t, x_0) = N(mean, std^2 I) between two times s < t.

    $\tilde\mu = e^{\lambda_t-\lambda_s}\frac{\alpha_s}{\alpha_t}x_t - \alpha_s\,\mathrm{expm1}(\lambda_t-\lambda_s)\,x_0,\quad
        \tilde\sigma^2 = -\sigma_s^2\,\mathrm{expm1}(\lambda_t-\lambda_s)$

    Shapes: `x_t`, `x0` [*batch, *event], s, t scalar or [*batch] -> mean [*batch, *event], std [*batch] or scalar.
    The std is zero for a clean s and, with gradient zero, where s = t.
    Source: Ho, Jain, Abbeel 2020, eq. 6 and 7, for any process: Kingma et al. 2021, eq. 25.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> mean, std = posterior(edm(), jnp.ones(1), jnp.zeros(1), 3.0, 5.0)
    >>> round(float(mean[0]), 5), round(float(std), 5)
    (0.36, 2.4)
    """
    fall = process.log_snr(t) - process.log_snr(s)
    keep = jnp.exp(fall + process.log_alpha(s) - process.log_alpha(t))
    pull = -alpha(process, s) * jnp.expm1(fall)
    mean = expand_to_event(keep, x_t) * x_t + expand_to_event(pull, x0) * x0
    return mean, sigma(process, s) * _root(fall)


def _derivative(function, t):
    t = jnp.asarray(t, float)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def drift(process: Process, t: Numeric) -> Array:
    r"""Coefficient f of the forward stochastic differential equation dx = f(t) x dt + g(t) dw.

    $f(t) = \frac{d\log\alpha_t}{dt}$

    Shapes: t any -> same.  Source: Kingma, Salimans, Poole, Ho 2021; Song, Sohl-Dickstein, Kingma et al. 2021.

    >>> from dlvm_jax.functional.diffusion.schedules import variance_preserving
    >>> round(float(drift(variance_preserving(), 0.0)), 4)
    -0.05
    """
    return _derivative(process.log_alpha, t)


def diffusion(process: Process, t: Numeric) -> Array:
    r"""Coefficient g of the forward stochastic differential equation dx = f(t) x dt + g(t) dw.

    $g(t)^2 = \frac{d\sigma_t^2}{dt} - 2f(t)\sigma_t^2 = -\sigma_t^2\,\frac{d\lambda}{dt}$

    Shapes: t any -> same.  Source: Kingma, Salimans, Poole, Ho 2021; Song, Sohl-Dickstein, Kingma et al. 2021.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> float(diffusion(edm(), 2.0).round(4))
    2.0
    """
    return sigma(process, t) * jnp.sqrt(-_derivative(process.log_snr, t))


def prior_sample(process: Process, key: Key, shape: Shape) -> Array:
    r"""Draw from the distribution at which sampling starts.

    $x_T\sim\mathcal N(0,\sigma_T^2I)$ at $T$ = `process.t_max`

    sigma_T is nearly 1 for a variance-preserving process, not for an exploding one.  Shapes: -> `shape`.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, appendix C.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> prior_sample(edm(), jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    return sigma(process, process.t_max) * draw_normal(key, shape)


def prior_log_prob(process: Process, x: Array, event_ndim: int = 1) -> Array:
    r"""Log-density of the distribution at which sampling starts.

    $\log p(x_T) = \sum_i\log\mathcal N(x_{T,i}\mid 0,\sigma_T^2)$

    Shapes: `x` [*batch, *event] -> [*batch], nats.  Source: Song, Sohl-Dickstein, Kingma et al. 2021, appendix D.2.

    >>> from dlvm_jax.functional.diffusion.schedules import linear_log_snr
    >>> round(float(prior_log_prob(linear_log_snr(-40.0, 13.0), jnp.zeros(2))), 4)
    -1.8379
    """
    log_std = jnp.log(sigma(process, process.t_max))
    return normal_log_prob(x, 0.0, log_std, event_ndim)
