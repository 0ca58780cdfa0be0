r"""The variational bound of a diffusion model: in discrete time with any reverse variance, and in continuous time.

Each term is in nats and keeps the batch; bound = reconstruction - diffusion - prior.  A bound is of the kind "bound": only
its expectation over the noise lies below log p(x).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.diffusion.objectives import denoising_loss, weight
from dlvm_jax.functional.diffusion.process import (
    Process,
    alpha,
    diffuse,
    expand_to_event,
    posterior,
    sigma,
    transition,
)
from dlvm_jax.functional.diffusion.solvers import check_inside, checked_times
from dlvm_jax.functional.diffusion.targets import coefficients, to_x0
from dlvm_jax.functional.divergences import kl_normal
from dlvm_jax.functional.numerics import as_float, draw_normal
from dlvm_jax.functional.types import Array, Denoiser, Key, Numeric

__all__ = [
    "VariationalBound",
    "continuous_bound",
    "discrete_bound",
    "hybrid_loss",
    "learned_log_std",
    "optimal_log_std",
    "prior_kl",
    "reverse_log_std",
    "step_kl",
    "step_weight",
]


class VariationalBound(NamedTuple):
    """Terms of the bound, each [*batch] in nats; diffusion and prior are divergences, to be taken off."""

    reconstruction: Array
    diffusion: Array
    prior: Array

    @property
    def bound(self) -> Array:
        """reconstruction - diffusion - prior."""
        return self.reconstruction - self.diffusion - self.prior


def prior_kl(process: Process, x0: Array, event_ndim: int = 1, prior_std: Numeric | None = None) -> Array:
    r"""The term L_T: what is left of the data at the end of the path.

    $L_T = \mathrm{KL}(q(x_T\mid x_0)\,\|\,\mathcal N(0, s^2I)) =
        \tfrac12\sum_i\Big(\frac{\alpha_T^2x_{0,i}^2+\sigma_T^2}{s^2}-1-\log\frac{\sigma_T^2}{s^2}\Big)$

    s is $\sigma_T$ (`process.prior_sample`) unless given; papers with variance-preserving processes take s = 1.
    Shapes: `x0` [*batch, *event] -> [*batch], nats.  Source: Ho, Jain, Abbeel 2020, eq. 5.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> round(float(prior_kl(edm(), jnp.array([80.0, 80.0]))), 4)
    1.0
    """
    end = sigma(process, process.t_max)
    log_prior_std = jnp.log(end if prior_std is None else jnp.asarray(prior_std))
    return kl_normal(alpha(process, process.t_max) * x0, jnp.log(end), 0.0, log_prior_std, event_ndim)


def reverse_log_std(process: Process, kind: str, s: Numeric, t: Numeric) -> Array:
    r"""The two usual standard deviations of a reverse step from t to s.

    $\log\tilde\sigma$ of $q(x_s\mid x_t,x_0)$ for "small", $\log\sigma_{t\mid s}$ of $q(x_t\mid x_s)$ for "large"

    "small" is exact for data that are one point; "large" for variance-preserving processes and standard normal data.  The
    first step of a table, whose posterior has no variance, takes the "small" one of the second.  Shapes: s, t any -> same.
    Raises ValueError for another kind.  Source: Ho, Jain, Abbeel 2020, section 3.2.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> [round(float(jnp.exp(reverse_log_std(edm(), kind, 3.0, 5.0))), 4) for kind in ("small", "large")]
    [2.4, 4.0]
    """
    if kind == "large":
        return jnp.log(transition(process, s, t)[1])
    if kind != "small":
        raise ValueError(
            f"a reverse variance is 'small' or 'large', got {kind!r}; or give any log_std yourself"
        )
    if process.steps is not None:
        s, t = jnp.maximum(s, 1 / process.steps), jnp.maximum(t, 2 / process.steps)
    return jnp.log(_posterior(process, jnp.zeros(jnp.broadcast_shapes(jnp.shape(s), jnp.shape(t))), s, t)[1])


def _posterior(process, x0, s, t):
    """Mean and std of q(x_s | x_t, x_0), less the part of the mean in x_t, which would only cancel in differences."""
    return posterior(process, jnp.zeros_like(x0), x0, s, t)


def optimal_log_std(process: Process, s: Numeric, t: Numeric, error: Numeric) -> Array:
    r"""The reverse standard deviation that is best for a given mean squared error of the denoiser.

    $\sigma^2 = \tilde\sigma^2 + \big(\alpha_s\,\mathrm{expm1}(\lambda_t-\lambda_s)\big)^2\,
        \tfrac1D\mathbb E\|x_0-\hat x_0(x_t)\|^2$

    On Gaussian data of one variance it makes every step exact, for any number of steps.
    Shapes: s, t, `error` broadcast -> same.  Source: Bao, Li, Zhu, Zhang 2022.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> round(float(jnp.exp(optimal_log_std(edm(), 3.0, 5.0, 0.0))), 4)
    2.4
    """
    pull, std = _posterior(process, jnp.ones(jnp.broadcast_shapes(jnp.shape(s), jnp.shape(t))), s, t)
    return 0.5 * jnp.log(jnp.square(std) + jnp.square(pull) * error)


def learned_log_std(process: Process, fraction: Array, s: Numeric, t: Numeric) -> Array:
    r"""A reverse standard deviation between the small and the large one, a fraction for each element.

    $\log\sigma = v\log\sigma_{t\mid s} + (1-v)\log\tilde\sigma$

    Shapes: `fraction` [*batch, *event], s, t scalar or [*batch] -> [*batch, *event].
    Source: Nichol & Dhariwal 2021, eq. 15.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> round(float(jnp.exp(learned_log_std(edm(), jnp.ones(1), 3.0, 5.0))[0]), 4)
    4.0
    """
    small, large = (
        expand_to_event(reverse_log_std(process, kind, s, t), fraction) for kind in ("small", "large")
    )
    return small + fraction * (large - small)


def step_kl(
    process: Process, x0: Array, x0_hat: Array, s: Numeric, t: Numeric, log_std: Numeric, event_ndim: int = 1
) -> Array:
    r"""The term $L_{t-1}$ of one step from t to s, with any reverse variance.

    $\mathrm{KL}\big(q(x_s\mid x_t,x_0)\,\|\,\mathcal N(\tilde\mu(x_t,\hat x_0), \sigma^2I)\big)$

    x_t itself cancels.  Infinite at a clean s, where a decoder takes the step's place.
    Shapes: `x0`, `x0_hat` [*batch, *event]; s, t scalar or [*batch]; `log_std` scalar, [*batch] or
    [*batch, *event] -> [*batch], nats.  Source: Ho, Jain, Abbeel 2020, eq. 5 and 8 (1/(2 sigma^2), not 1/beta).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> small = reverse_log_std(edm(), "small", 3.0, 5.0)
    >>> float(step_kl(edm(), jnp.ones(2), jnp.ones(2), 3.0, 5.0, small))
    0.0
    """
    (mean, std), (mean_hat, _) = (_posterior(process, point, s, t) for point in (x0, x0_hat))
    return kl_normal(
        mean, expand_to_event(jnp.log(std), x0), mean_hat, expand_to_event(log_std, x0), event_ndim
    )


def step_weight(process: Process, target: str, s: Numeric, t: Numeric, log_std: Numeric) -> Array:
    r"""What the squared error of a target counts in the term of one step: the three interpretations of the bound.

    $\frac{1}{2\sigma^2}\frac{(\alpha_s\,\mathrm{expm1}(\lambda_t-\lambda_s))^2}{a(t)^2}$

    For a table and s, t = i - 1, i this is $\frac{\bar\alpha_{i-1}\beta_i^2}{2\sigma^2(1-\bar\alpha_i)^2}$ for x0 (denoising),
    $\frac{\beta_i^2}{2\sigma^2(1-\bar\alpha_i)\alpha_i}$ for epsilon, $\frac{\beta_i^2}{2\sigma^2\alpha_i}$ for the score
    (denoising score matching).  Shapes: s, t, `log_std` any -> same.  Raises ValueError for an unknown target.
    Source: Ho, Jain, Abbeel 2020, eq. 12; Luo 2022, eq. 99, 130 and 148.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> round(float(step_weight(edm(), "x0", 3.0, 5.0, jnp.log(2.4))), 5)
    0.03556
    """
    pull, _ = _posterior(process, jnp.ones(jnp.broadcast_shapes(jnp.shape(s), jnp.shape(t))), s, t)
    a, _ = coefficients(process, target, t)
    return 0.5 * jnp.square(pull / (a * jnp.exp(log_std)))


def _noisy(process, key, x0, t):
    return diffuse(process, x0, t, draw_normal(key, x0.shape, x0.dtype))


def discrete_bound(
    key: Key,
    process: Process,
    reverse: Callable[[Array, Array, Array], tuple[Array, Array]],
    decoder: Callable[[Array], Array],
    x0: Array,
    times: Array,
    event_ndim: int = 1,
    uniform: Array | None = None,
    prior_std: Numeric | None = None,
) -> VariationalBound:
    r"""Bound in discrete time along given times $t_0<\ldots<t_N$: all N steps, or one of them drawn for each example.

    $\log p(x) \ge \mathbb E_q\Big[\log p(x\mid x_{t_0}) - \sum_{i=1}^N
        \mathrm{KL}\big(q(x_{t_{i-1}}\mid x_{t_i},x_0)\,\|\,p(x_{t_{i-1}}\mid x_{t_i})\big)\Big] -
        \mathrm{KL}(q(x_{t_N}\mid x_0)\,\|\,p(x_{t_N}))$

    Shapes: `x0` [*batch, *event], `times` [N + 1] -> `VariationalBound` of [*batch], nats.
    reverse: (x_t, s, t) -> (x0_hat, log_std) as in `step_kl`.
    decoder: x_{t_0} -> log p(x | x_{t_0}) [*batch].
    times: a table of T steps has times 1/T .. 1, N = T - 1 steps and a decoder from the first; times that begin at 0 (without a
    clean end) have N = T.  The prior is that of the last time.
    uniform: [*batch] in [0, 1); only step floor(uniform N) + 1 is evaluated, times N (not N - 1).
    Raises ValueError for times that do not rise or lie outside of the process (where they are concrete), and for a `uniform` of
    another shape.
    Source: Ho, Jain, Abbeel 2020, eq. 5; Kingma, Salimans, Poole, Ho 2021, eq. 13.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> point, times = jnp.ones((1, 2)), jnp.array([0.002, 1.0, 80.0])
    >>> reverse = lambda x, s, t: (point, reverse_log_std(edm(), "small", s, t))
    >>> discrete_bound(jax.random.key(0), edm(), reverse, lambda x: jnp.zeros(1), point, times).diffusion.tolist()
    [0.0]
    """
    key_first, key_steps = jax.random.split(key)
    x0 = as_float(x0)
    wide = jnp.promote_types(x0.dtype, jnp.float32)
    times = checked_times(times, 1, wide)
    check_inside(process, times)
    count = len(times) - 1

    def term(key, s, t):
        x0_hat, log_std = reverse(_noisy(process, key, x0, t), s, t)
        return step_kl(process, x0, x0_hat, s, t, log_std, event_ndim)

    if uniform is None:
        draws = (jax.random.split(key_steps, count), times[:-1], times[1:])
        total, _ = jax.lax.scan(
            lambda total, draw: (total + term(*draw), None),
            jnp.zeros(x0.shape[: x0.ndim - event_ndim], wide),
            draws,
        )
    else:
        batch = x0.shape[: x0.ndim - event_ndim]
        if jnp.shape(uniform) != batch:
            raise ValueError(
                f"uniform is one number for each example {batch}, got shape {jnp.shape(uniform)}"
            )
        step = jnp.clip(jnp.floor(uniform * count).astype(int), 0, count - 1)
        total = count * term(key_steps, times[step], times[step + 1])
    first = decoder(_noisy(process, key_first, x0, times[0]))
    ends = process._replace(t_max=times[-1])
    return VariationalBound(first, total, prior_kl(ends, x0, event_ndim, prior_std))


def continuous_bound(
    key: Key,
    process: Process,
    denoise: Denoiser,
    decoder: Callable[[Array], Array],
    x0: Array,
    t: Numeric,
    t_weight: Numeric = 1.0,
    event_ndim: int = 1,
    prior_std: Numeric | None = None,
) -> VariationalBound:
    r"""Bound in continuous time, at one random time for each example.

    $\log p(x) \ge \mathbb E\big[\log p(x\mid x_{t_{\min}})\big] - \tfrac12\int_{t_{\min}}^{t_{\max}}(-\dot\lambda)\,e^{\lambda}\,
        \mathbb E\|x_0-\hat x_0(x_t,t)\|^2dt - \mathrm{KL}(q(x_T\mid x_0)\,\|\,p(x_T))$

    The integrand is also $\tfrac12(-\dot\lambda)\|\epsilon-\hat\epsilon\|^2$; the integral depends on the schedule through its
    ends alone.
    Shapes: `x0` [*batch, *event], `t`, `t_weight` [*batch] or scalars -> `VariationalBound` of [*batch], nats.  Raises ValueError
    for others.
    decoder: x at t_min -> log p(x | x_{t_min}) [*batch].
    t: uniform over the process (`times.uniform_times`), or with a `t_weight` (`times.importance_times`).
    Source: Kingma, Salimans, Poole, Ho 2021, eq. 15 and 16.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> point = jnp.ones((1, 2))
    >>> continuous_bound(jax.random.key(0), edm(), lambda x, t: point, lambda x: 0.0, point, 1.0).diffusion.tolist()
    [0.0]
    """
    x0 = as_float(x0)
    key_first, key_noise = jax.random.split(key)
    x_t = _noisy(process, key_noise, x0, t)
    span = (process.t_max - process.t_min) * t_weight
    per_time = weight("likelihood", process, t)
    integral = denoising_loss(process, "x0", denoise(x_t, t), x0, x_t, t, per_time, event_ndim)
    if jnp.broadcast_shapes(jnp.shape(span), integral.shape) != integral.shape:
        raise ValueError(
            f"t_weight is a scalar or has the batch's shape {integral.shape}, got {jnp.shape(span)}"
        )
    integral = span * integral
    first = decoder(_noisy(process, key_first, x0, process.t_min))
    return VariationalBound(first, integral, prior_kl(process, x0, event_ndim, prior_std))


def hybrid_loss(
    process: Process,
    target: str,
    prediction: Array,
    fraction: Array,
    decoder: Callable[[Array, Array], Array],
    x0: Array,
    x_t: Array,
    t: Numeric,
    event_ndim: int = 1,
    scale: float = 1e-3,
) -> Array:
    r"""Simple loss for the mean and a little of the bound for the variance, which alone learns from it.

    $\|\epsilon-\hat\epsilon\|^2 + 10^{-3}\,T\,L_{t-1}$ with $\hat x_0$ held constant in L and
    $\log\sigma = v\log\sigma_{t\mid s} + (1-v)\log\tilde\sigma$

    Shapes: `prediction`, `fraction` (v), `x0`, `x_t` [*batch, *event]; t scalar or [*batch], steps i / T of a table ->
    [*batch].
    decoder: (mean, log_std) of a Gaussian -> its log-probability [*batch], for the first step, which counts
    $-\log p(x\mid x_1)$.
    Raises ValueError for a process without a table, or an unknown target.  Source: Nichol & Dhariwal 2021, eq. 16.

    >>> from dlvm_jax.functional.diffusion.schedules import from_recursion, linear_betas
    >>> zeros, chain = jnp.zeros((1, 2)), from_recursion(linear_betas(10))
    >>> hybrid_loss(chain, "epsilon", zeros, zeros, lambda mean, log_std: 0.0, zeros, zeros, 1.0).tolist()
    [0.0]
    """
    if process.steps is None:
        raise ValueError("the hybrid loss counts the steps of a table; make the process with from_recursion")
    x0_hat = jax.lax.stop_gradient(to_x0(process, target, prediction, x_t, t))
    s = t - 1 / process.steps
    log_std = learned_log_std(process, fraction, s, t)
    first = jnp.asarray(t) < 1.5 / process.steps
    # the term of a later step is finite everywhere, so that the gradient of the one not taken is no NaN
    later = step_kl(
        process,
        x0,
        x0_hat,
        jnp.maximum(s, 1 / process.steps),
        jnp.maximum(t, 2 / process.steps),
        log_std,
        event_ndim,
    )
    bound = process.steps * jnp.where(first, -decoder(x0_hat, log_std), later)
    simple = denoising_loss(
        process, target, prediction, x0, x_t, t, weight("epsilon", process, t), event_ndim
    )
    return simple + scale * bound
