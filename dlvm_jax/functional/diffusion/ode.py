r"""Solvers of the probability-flow ODE in time: Runge-Kutta methods, fixed and adaptive, and EDM's with churn.

dx/dt = f(t) x - g(t)^2 / 2 * score has the marginals of the process.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlvm_jax.functional.diffusion.process import Process, alpha, transition
from dlvm_jax.functional.diffusion.solvers import Solver, check_inside, finish, known_clean, time_between
from dlvm_jax.functional.diffusion.targets import from_x0
from dlvm_jax.functional.numerics import as_float, as_wide
from dlvm_jax.functional.types import Array, Denoiser, Numeric

__all__ = [
    "METHODS",
    "Integral",
    "Tableau",
    "adaptive",
    "edm_heun",
    "integrate",
    "probability_flow",
    "runge_kutta",
]


class Tableau(NamedTuple):
    """A Runge-Kutta method: stage times c [S], stage weights a [S, S], weights b [S]."""

    c: np.ndarray
    a: np.ndarray
    b: np.ndarray


def _tableau(*rows):
    """From the rows of a: the last one is b."""
    stages = len(rows)
    a = np.zeros((stages, stages))
    for i, row in enumerate(rows[:-1], 1):
        a[i, : len(row)] = row
    return Tableau(a.sum(1), a, np.array(rows[-1], float))


METHODS = {
    "euler": _tableau([1]),
    "heun": _tableau([1], [1 / 2, 1 / 2]),
    "rk4": _tableau([1 / 2], [0, 1 / 2], [0, 0, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}
DORMAND_PRINCE = _tableau(
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
)
# b of the fifth order less b of the fourth
DORMAND_PRINCE_ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])


def probability_flow(process: Process, denoise: Denoiser, x: Array, t: Numeric) -> Array:
    r"""Drift of the deterministic ODE that has the marginals of the noise process.

    $\frac{dx}{dt} = f(t)\,x - \tfrac12g(t)^2\,\nabla\log q_t(x) = \dot\alpha_t\hat x_0(x,t) + \dot\sigma_t\hat\epsilon(x,t)$

    So it is the expected velocity.  denoise: (x, t) -> expected clean point.
    Shapes: `x` [*batch, *event], t scalar or [*batch] -> [*batch, *event].
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 13.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> probability_flow(edm(), lambda x, t: 0 * x, jnp.array([6.0]), 2.0).tolist()
    [3.0]
    """
    x = as_float(x)
    return from_x0(process, "velocity", denoise(x, t), x, t).astype(x.dtype)


def _plus(x, h, weights, slopes):
    """x + h sum_i weights_i slopes_i, leaf by leaf; slopes [S, *x.shape]."""

    def leaf(x, slopes):
        scale = jnp.asarray(h * weights, x.dtype)
        return x + jnp.tensordot(scale, slopes, 1, precision="highest")

    return jax.tree.map(leaf, x, slopes)


def _stages(tableau, field, x, first, t, h):
    """The slopes [S, *x.shape] of one step; `first` is field(x, t).  A scan: the field is compiled once."""
    slopes = jax.tree.map(
        lambda leaf: jnp.zeros((len(tableau.b), *leaf.shape), leaf.dtype).at[0].set(leaf), first
    )

    def stage(slopes, inputs):
        i, c, weights = inputs
        slope = field(_plus(x, h, weights, slopes), t + c * h)
        return jax.tree.map(lambda all_, new: all_.at[i].set(new), slopes, slope), None

    c, a = (jnp.asarray(part[1:], jnp.result_type(h)) for part in (tableau.c, tableau.a))
    return lax.scan(stage, slopes, (jnp.arange(1, len(tableau.b)), c, a))[0]


def runge_kutta(process: Process, denoise: Denoiser, method: str = "heun") -> Solver:
    r"""The probability-flow ODE in time by a Runge-Kutta method.

    $x_s = x_t + (s-t)\sum_ib_ik_i,\quad k_i = \dot x\big(x_t + (s-t)\sum_{j<i}a_{ij}k_j,\ t+c_i(s-t)\big)$

    method: "euler", "heun" (EDM's sampler, for EDM's process), "rk4": order and evaluations a step 1, 2, 4.  No draws.
    Raises ValueError for another method.  Shapes: x any -> `Solver`.  Source: Karras, Aittala, Aila, Laine 2022, algorithm 1
    (Heun).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> solver = runge_kutta(edm(), lambda x, t: jnp.zeros_like(x), "heun")
    >>> solver.step(solver.init(jnp.ones(1)), 4.0, 3.0, None)[0].round(5).tolist()
    [0.75]
    """
    if method not in METHODS:
        raise ValueError(f"a method is one of {', '.join(METHODS)}, got {method!r}")
    tableau, field = METHODS[method], functools.partial(probability_flow, process, denoise)

    def step(state, t, s, noise, x0):
        x, h = state[0], jnp.asarray(s - t, state[0].dtype)
        first = from_x0(process, "velocity", x0, x, t).astype(x.dtype)
        return _plus(x, h, tableau.b, _stages(tableau, field, x, first, t, h)), x0

    return Solver(lambda x: (x, x), finish(process, denoise, step), 0, process)


def edm_heun(
    process: Process,
    denoise: Denoiser,
    churn: float = 0.0,
    low: float = 0.0,
    high: float = float("inf"),
    inflation: float = 1.0,
) -> Solver:
    r"""EDM's sampler: noise is added to raise the level, then Heun's method in the noise level takes it down.

    $\hat\varsigma = (1+\gamma)\varsigma_t,\ \hat x = x + \sqrt{\hat\varsigma^2-\varsigma_t^2}\,S_{noise}z,\
        x_s = \hat x + \tfrac12(\varsigma_s-\hat\varsigma)(\epsilon_{\hat\varsigma}+\epsilon_{\varsigma_s})$, with
    $\varsigma = \sigma/\alpha$ and x standing for $x/\alpha$

    churn: gamma, which is min(S_churn / N, sqrt 2 - 1) in the paper; never above t_max.
    low, high: S_min and S_max; there is churn where low <= varsigma <= high.
    inflation: S_noise.
    One draw a step with churn, none without.  Raises ValueError for a churn below 0.
    Shapes: x any -> `Solver`.  Source: Karras, Aittala, Aila, Laine 2022, algorithm 2, for any process.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> solver = edm_heun(edm(), lambda x, t: jnp.zeros_like(x), churn=0.1)
    >>> bool(jnp.isclose(solver.step(solver.init(jnp.ones(1)), 4.0, 3.0, jnp.zeros((1, 1)))[0][0], 3 / 4.4))
    True
    """
    if not 0 <= churn < float("inf"):
        raise ValueError(f"churn is a number and not negative, got {churn}")

    def heun(state, t, s, noise, x0):
        x = state[0] / alpha(process, t)
        before, after = (jnp.exp(-0.5 * process.log_snr(time)) for time in (t, s))
        slope = from_x0(process, "epsilon", x0, state[0], t)
        guess = alpha(process, s) * (x + (after - before) * slope)
        new = from_x0(process, "epsilon", denoise(guess, s), guess, s)
        return (alpha(process, s) * (x + 0.5 * (after - before) * (slope + new))).astype(guess.dtype), x0

    down = finish(process, denoise, heun)

    def step(state, t, s, noise):
        level = jnp.exp(-0.5 * process.log_snr(t))
        raised = time_between(process, t, process.t_max, process.log_snr(t) - 2 * jnp.log1p(churn))
        raised = jnp.where((low <= level) & (level <= high), raised, t).astype(jnp.result_type(t))
        scale, std = transition(process, t, raised)
        return down((scale * state[0] + inflation * std * noise[0], *state[1:]), raised, s, noise)

    return Solver(lambda x: (x, x), step if churn else down, 1 if churn else 0, process)


class Integral(NamedTuple):
    """What an adaptive integration returns: the state, the time it got to, field evaluations, steps tried."""

    x: Any
    time: Array
    evaluations: Array
    steps: Array


def integrate(
    field: Callable[[Any, Array], Any],
    x: Any,
    start: Numeric,
    stop: Numeric,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> Integral:
    r"""An ordinary differential equation by the embedded pair of Dormand and Prince, with control of the error of each step.

    $\dot x = \mathrm{field}(x,t)$; a step is kept if $\mathrm{rms}\big(e/(a+r\max(|x|,|x'|))\big)\le1$, the next is
    $0.9\,\mathrm{err}^{-1/5}$ as long, within a factor 5

    Shapes: x any pytree of arrays, start and stop scalars, in either order -> `Integral`, in float32 at least.  All of x takes
    the same steps; under vmap each example takes its own.
    rtol, atol: r and a above; in float32 tolerances below 1e-5 measure rounding.
    max_steps: if they do not reach `stop`, x is NaN.
    Not for reverse-mode gradients (a while loop): take `runge_kutta`.  Source: Dormand & Prince 1980, RK5(4)7M;
    Hairer, Norsett, Wanner 1993, section II.4.

    >>> out = integrate(lambda x, t: -x, jnp.ones(1), 0.0, 1.0)
    >>> bool(jnp.isclose(out.x[0], jnp.exp(-1.0), atol=1e-5)), bool(out.time == 1.0)
    (True, True)
    """
    x = jax.tree.map(as_wide, x)
    leaves = jax.tree.leaves(x)
    dtype = jnp.result_type(*leaves)
    start, stop = jnp.asarray(start, dtype), jnp.asarray(stop, dtype)
    count = sum(leaf.size for leaf in leaves)

    def too_large(x, new, error):
        scaled = jax.tree.map(
            lambda x, new, e: jnp.sum(jnp.square(e / (atol + rtol * jnp.maximum(abs(x), abs(new))))),
            x,
            new,
            error,
        )
        return jnp.sqrt(sum(jax.tree.leaves(scaled)) / count)

    def unfinished(carry):
        _, _, t, _, steps = carry
        return (t != stop) & (steps < max_steps)

    def body(carry):
        x, first, t, h, steps = carry
        last = abs(h) >= abs(stop - t)
        h = jnp.where(last, stop - t, h)
        slopes = _stages(DORMAND_PRINCE, field, x, first, t, h)
        new = _plus(x, h, DORMAND_PRINCE.b, slopes)
        zero = jax.tree.map(jnp.zeros_like, x)
        error = too_large(x, new, _plus(zero, h, DORMAND_PRINCE_ERROR, slopes))
        kept = error <= 1  # False for NaN too
        select = lambda new, old: jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)
        factor = jnp.where(error > 0, 0.9 * error**-0.2, jnp.where(error == 0, 5.0, 0.2))
        # The seventh stage is the first of the next step.
        first = select(jax.tree.map(lambda leaf: leaf[-1], slopes), first)
        t = jnp.where(kept, jnp.where(last, stop, t + h), t)
        return select(new, x), first, t, h * jnp.clip(factor, 0.2, 5.0), steps + 1

    carry = (x, field(x, start), start, 0.01 * (stop - start), jnp.zeros((), int))
    x, _, t, _, steps = lax.while_loop(unfinished, body, carry)
    x = jax.tree.map(lambda leaf: jnp.where(t == stop, leaf, jnp.nan), x)
    return Integral(x, t, 1 + 6 * steps, steps)


def adaptive(
    process: Process,
    denoise: Denoiser,
    x: Array,
    start: Numeric,
    stop: Numeric,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> Integral:
    r"""The probability-flow ODE between two times to a tolerance: `integrate` of `probability_flow`.

    $x_{stop} = x_{start} + \int_{start}^{stop}\dot x\,dt$

    Shapes: `x` [*shape], times scalar, in either order (rising times encode) -> `Integral`.  Both times have noise: stop at
    `process.t_min`.  Where the process is not smooth in time, as a table between its steps, the solver's variable is log-SNR, on
    which the flow depends smoothly.  Of a table that does not preserve variance it has kinks, and the error stays above the
    tolerance (1e-5 at 1e-8).  Raises ValueError for a time that is clean or above t_max (where it is concrete).
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, section 4.3 and appendix D.4.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> out = adaptive(edm(), lambda x, t: x / (1 + t**2), 80.0 * jnp.ones(1), 80.0, 0.002)
    >>> bool(jnp.isclose(out.x[0], 80 / jnp.sqrt(1 + 80.0**2), rtol=1e-3))
    True
    """
    for time in (start, stop):
        check_inside(process, time)
        if known_clean(process, time):
            raise ValueError(f"the ODE is singular at the clean time {time}: integrate to process.t_min")
    field = functools.partial(probability_flow, process, denoise)
    if process.smooth:
        return integrate(field, x, start, stop, rtol, atol, max_steps)
    dtype = as_wide(x).dtype
    start, stop = jnp.asarray(start, dtype), jnp.asarray(stop, dtype)
    low, high = jnp.minimum(start, stop), jnp.maximum(start, stop)

    def by_log_snr(x, level):
        t = time_between(process, low, high, level)
        _, fall = jax.jvp(process.log_snr, (t,), (jnp.ones_like(t),))
        return (field(x, t) / fall).astype(x.dtype)

    first, last = (process.log_snr(time) for time in (start, stop))
    out = integrate(by_log_snr, x, first, last, rtol, atol, max_steps)
    time = jnp.where(out.time == last, stop, time_between(process, low, high, out.time).astype(stop.dtype))
    return out._replace(time=time)
