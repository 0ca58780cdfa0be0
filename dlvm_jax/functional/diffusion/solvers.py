r"""Samplers: what a solver is, the loop that runs it, and the grids of times it runs on.

A solver is a pair of pure functions, as an Optax optimiser is.  The modules `ancestral`, `ode`, `sde` and `dpm` make solvers
from a process and a denoiser, `denoise(x, t) -> E[x_0 | x_t]` with t a scalar.  Two rules hold for all of them.

- A step goes from t to s.  A clean s (log-SNR = inf, which is t = 0 for most processes) is reached in closed form,
  x_s = alpha_s E[x_0 | x_t]: the limit of DDIM, and Euler's step for EDM.  The denoiser is never asked at a clean time, so a
  grid may end there but not begin there.
- Nothing couples the examples of a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import DTypeLike

from dlvm_jax.functional.diffusion.process import Process, alpha
from dlvm_jax.functional.numerics import as_float, draw_normal
from dlvm_jax.functional.types import Array, Denoiser, Key, Numeric

__all__ = [
    "Solver",
    "encode",
    "equal_times",
    "finish",
    "is_clean",
    "karras_times",
    "log_snr_times",
    "sample",
    "table_times",
    "time_between",
]


class Solver(NamedTuple):
    """A sampler of one step at a time.

    init: x -> state;  a state is a tuple that begins with x and the x_0 predicted last
    step: (state, t, s, noise [draws, *x.shape]) -> state, from time t to time s;  draws: standard normals that a step uses
    process: the one it solves, whose interval a grid must keep to; None: any times are taken
    """

    init: Callable[[Array], tuple]
    step: Callable[..., tuple]
    draws: int = 0
    process: Process | None = None


def is_clean(process: Process, t: Numeric) -> Array:
    r"""Whether a point at time t has no noise.

    $\lambda(t) = \infty$

    Shapes: t any -> bool, same.  Source: definition.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> bool(is_clean(edm(), 0.0)), bool(is_clean(edm(), 0.002))
    (True, False)
    """
    return jnp.isposinf(process.log_snr(jnp.asarray(t, float)))


def _like(new, old):
    """A state in the precision of another one: times and coefficients may be wider than x."""
    return jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), new, old)


def finish(process: Process, denoise: Denoiser, step: Callable[..., tuple]) -> Callable[..., tuple]:
    r"""A solver's step that treats the clean end in closed form.

    $x_s = \alpha_s\,\mathbb E[x_0\mid x_t]$ where $\lambda(s)=\infty$, else `step`

    step: (state, t, s, noise, x0) -> state, which is `Solver.step` given E[x_0 | x_t].  At a clean end it runs on s = t at
    most, as the branch not taken, so that nothing infinite enters a gradient.
    Shapes: x any.  Source: Song, Meng, Ermon 2021, eq. 12 with alpha_s = 1.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> step = finish(edm(), lambda x, t: x / 2, lambda state, *_: state)
    >>> step((jnp.ones(1), jnp.zeros(1)), 1.0, 0.0, None)[0].tolist()
    [0.5]
    """

    def whole(state, t, s, noise):
        x0 = denoise(state[0], t).astype(state[0].dtype)
        clean = is_clean(process, s)
        noisy = jnp.where(clean, t, s)
        return lax.cond(
            clean,
            lambda: _like((alpha(process, s) * x0, x0, *state[2:]), state),
            lambda: _like(step(state, t, noisy, noise, x0), state),
        )

    return whole


def known_clean(process: Process, t: Numeric) -> bool | None:
    """Whether any of some times is clean; None where that depends on what is traced (a trained process, the times)."""
    with jax.ensure_compile_time_eval():  # a fixed process is known even under jit
        clean = is_clean(process, t).any()
    return None if isinstance(clean, Tracer) else bool(clean)


def checked_times(times: Array, sign: int, dtype: DTypeLike) -> Array:
    """A grid in a precision; ValueError unless it falls (sign -1) or rises (1) strictly, where it is concrete."""
    with jax.ensure_compile_time_eval():
        times = jnp.asarray(as_float(times), dtype)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"a grid is a vector of at least two times, got shape {times.shape}")
    if not isinstance(times, Tracer):
        known = np.asarray(times)
        wrong = np.flatnonzero(~(sign * np.diff(known) > 0))
        if wrong.size:
            i, way = wrong[0], "rising" if sign > 0 else "falling"
            raise ValueError(
                f"times must be {way} strictly in {times.dtype}, got {known[i]} and then {known[i + 1]}: "
                "order them, or take fewer steps or a wider type"
            )
    return times


def check_inside(process: Process, times: Numeric) -> None:
    """ValueError for times outside of [0, t_max], where both are concrete."""
    if isinstance(times, Tracer) or isinstance(process.t_max, Tracer):
        return
    known = np.asarray(times, np.float64)
    # t_max may have been rounded to float32
    outside = known[~((known >= 0) & (known <= process.t_max * (1 + 1e-6)))]
    if outside.size:
        table = f"; step i of its table is at i / {process.steps}" if process.steps else ""
        raise ValueError(
            f"the times of this process lie in [0, {process.t_max}], got {outside.ravel()[0]}{table}: "
            "take a grid such as equal_times(process, steps)"
        )


def _draws(solver, count, x, noise):
    """The noise of each step as a function of its number and its slice of an array."""
    shape = (solver.draws, *x.shape)
    if solver.draws == 0:
        return None, lambda i, given: jnp.zeros(shape, x.dtype)
    if noise is None:
        raise ValueError(f"this solver uses {solver.draws} draws a step: give a key or an array as noise")
    noise = jnp.asarray(noise)
    if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key) and noise.ndim == 0:
        return None, lambda i, given: draw_normal(jax.random.fold_in(noise, i), shape, x.dtype)
    if noise.shape != (count, *shape):
        raise ValueError(
            f"noise is one typed key or has shape [steps, draws, *x] {(count, *shape)}, got {noise.shape}"
        )
    return jnp.asarray(noise, x.dtype), lambda i, given: given


def _run(solver, times, sign, x, noise, trajectory):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x is a point of floating type, got {x.dtype}: cast it")
    # In a narrower type than float32 times would coincide.
    times = checked_times(times, sign, jnp.promote_types(x.dtype, jnp.float32))
    if solver.process is not None:
        check_inside(solver.process, times)
    count = len(times) - 1
    given, draw = _draws(solver, count, x, noise)

    def body(state, inputs):
        i, t, s, given = inputs
        state = _like(solver.step(state, t, s, draw(i, given)), state)
        return state, state[:2] if trajectory else None

    steps = (jnp.arange(count), times[:-1], times[1:], given)
    state, frames = lax.scan(body, solver.init(x), steps)
    return (state[0], frames) if trajectory else state[0]


def sample(
    solver: Solver, times: Array, x: Array, noise: Key | Array | None = None, trajectory: bool = False
) -> Any:
    r"""Points at the last time of a grid from points at its first: one scan over the steps.

    $x_{t_N}\leftarrow\cdots\leftarrow x_{t_1}\leftarrow x_{t_0},\quad t_0 > t_1 > \cdots > t_N$

    Shapes: `times` [N + 1] falling, `x` [*shape] -> [*shape].
    noise: a typed key, an array [N, draws, *shape] of standard normals, or None for a deterministic solver.  With a key the
    draws of step i come from fold_in(key, i), so they are never all in memory.
    trajectory: return also (x after each step, the x_0 predicted at its start), each [N, *shape].
    Runs in the precision of x, times in float32 at least.
    Raises ValueError for times that do not fall or lie outside of [0, t_max] of the process (where they are concrete), for
    noise of another shape and for an x that is not floating.
    Source: Ho, Jain, Abbeel 2020, algorithm 2.

    >>> from dlvm_jax.functional.diffusion import ode, schedules
    >>> process = schedules.edm()
    >>> solver = ode.runge_kutta(process, lambda x, t: x / (1 + t**2), "heun")
    >>> out = sample(solver, karras_times(process, 40), 80.0 * jnp.ones(1))
    >>> bool(jnp.isclose(out[0], 1.0, atol=0.01))
    True
    """
    return _run(solver, times, -1, x, noise, trajectory)


def encode(process: Process, solver: Solver, times: Array, x: Array, trajectory: bool = False) -> Any:
    r"""The latent of a point: a deterministic solver run from (nearly) clean to noise.

    $x_{t_0}\rightarrow x_{t_1}\rightarrow\cdots\rightarrow x_{t_N},\quad t_0 < t_1 < \cdots < t_N$

    Every solver without draws allows it: DDIM with eta = 0, `ode`, the deterministic ones of `dpm`, EDM without churn.
    Sampling the latent gives x back up to twice the solver's error, not exactly.
    Shapes: `times` [N + 1] rising, `x` [*shape] -> [*shape]; trajectory as in `sample`.
    times: the first must have noise (`process.t_min`), since the ODE has no solution from a clean point.
    Raises ValueError for times that do not rise, lie above t_max or begin clean (where they are concrete) and for a solver
    with noise.
    Source: Song, Meng, Ermon 2021, section 4.3 and eq. 14.

    >>> from dlvm_jax.functional.diffusion import ode, schedules
    >>> process = schedules.edm()
    >>> solver = ode.runge_kutta(process, lambda x, t: x / (1 + t**2), "rk4")
    >>> latent = encode(process, solver, log_snr_times(process, 50)[::-1], jnp.ones(1))
    >>> bool(jnp.isclose(latent[0], jnp.sqrt(1 + 80.0**2), rtol=1e-4))
    True
    """
    if solver.draws:
        raise ValueError(f"only a deterministic solver encodes, this one uses {solver.draws} draws a step")
    if known_clean(process, times):
        raise ValueError("the ODE is singular at a clean first time: encode from process.t_min")
    return _run(solver, times, 1, x, None, trajectory)


def time_between(process: Process, low: Numeric, high: Numeric, log_snr: Numeric) -> Array:
    r"""The time at which the log signal-to-noise ratio has a value.

    $t = \lambda^{-1}(\ell)$, kept within `low` <= t <= `high`

    By bisection, to rounding.  No gradient passes: solvers take the time as a constant and its log-SNR from the process.
    Shapes: all scalar -> scalar.  Source: Lu, Zhou, Bao et al. 2022 (t_lambda).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> float(time_between(edm(), 0.0, 80.0, -2 * jnp.log(3.0)).round(4))
    3.0
    """

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        early = process.log_snr(middle) > log_snr
        return jnp.where(early, middle, low), jnp.where(early, high, middle)

    # 64 halvings resolve a double; unrolled, since each is a tiny kernel on an accelerator.
    dtype = jnp.result_type(low, high, 1.0)
    ends = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    before, after = lax.fori_loop(0, 64, halve, ends, unroll=8)
    return lax.stop_gradient(0.5 * (before + after))


def _check_grid(process, steps, clean):
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool):
        raise ValueError(f"a grid has a whole number of intervals, got {steps!r}")
    if steps < 1:
        raise ValueError(f"a grid has at least one interval, got {steps}")
    if clean and known_clean(process, 0.0) is False:
        raise ValueError(
            "t = 0 still has noise in this process: take clean=False, the grid then ends at t_min"
        )


def equal_times(process: Process, steps: int, clean: bool = False) -> Array:
    r"""Equally spaced times, in `steps` intervals.

    $t_i = t_{\max} - \frac iN(t_{\max}-t_{\mathrm{end}}),\quad i=0,\ldots,N$

    They cover [t_min, t_max], or [0, t_max] with `clean` (for a table of T steps and N = T: every step, t = 1, ..., 1/T, 0).
    So many steps that a noisy time would lie below t_min take equal ones to t_min, and then the last one to 0.
    Shapes: -> [steps + 1].  Raises ValueError if t = 0 is not clean.  Source: Song, Sohl-Dickstein, Kingma et al. 2021,
    appendix G.

    >>> from dlvm_jax.functional.diffusion.schedules import from_recursion, linear_betas
    >>> equal_times(from_recursion(linear_betas(4)), 4, clean=True).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _check_grid(process, steps, clean)
    if clean and process.t_max < steps * process.t_min:
        return jnp.append(jnp.linspace(process.t_max, process.t_min, steps), 0.0)
    return jnp.linspace(process.t_max, 0.0 if clean else process.t_min, steps + 1)


def _at_levels(process, steps, clean, log_snr):
    """Times where log-SNR is log_snr(place), place running from 0 at t_max to 1 at t_min; then 0 if the end is clean."""
    _check_grid(process, steps, clean)
    if clean and steps == 1:
        return jnp.array([process.t_max, 0.0])
    places = jnp.linspace(0.0, 1.0, steps if clean else steps + 1)[1:-1]
    between = jax.vmap(lambda place: time_between(process, process.t_min, process.t_max, log_snr(place)))(
        places
    )
    ends = [process.t_min, 0.0] if clean else [process.t_min]
    return jnp.concatenate([jnp.array([process.t_max]), between, jnp.array(ends)])


def log_snr_times(process: Process, steps: int, clean: bool = False) -> Array:
    r"""Times equally spaced in log signal-to-noise ratio, in `steps` intervals.

    $\lambda(t_i) = \lambda(t_{\max}) + \frac i{N}\,(\lambda(t_{\min})-\lambda(t_{\max}))$

    They cover [t_min, t_max]; with `clean` the last of the N intervals goes from t_min to 0.  Shapes: -> [steps + 1].
    Raises ValueError if t = 0 is not clean.  Source: Lu, Zhou, Bao et al. 2022.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> [round(t, 2) for t in log_snr_times(edm(0.01, 100.0), 4).tolist()]
    [100.0, 10.0, 1.0, 0.1, 0.01]
    """
    first, last = process.log_snr(process.t_max), process.log_snr(process.t_min)
    return _at_levels(process, steps, clean, lambda place: first + place * (last - first))


def karras_times(process: Process, steps: int, rho: float = 7.0, clean: bool = True) -> Array:
    r"""The grid of EDM: noise levels equally spaced in their power 1 / rho, then the clean point.

    $\varsigma_i = \big(\varsigma_{\max}^{1/\rho}+\tfrac i{N-1}(\varsigma_{\min}^{1/\rho}-\varsigma_{\max}^{1/\rho})\big)^\rho$
    with $\varsigma = \sigma/\alpha$, for $i < N$, and $t_N = 0$

    N intervals from t_max over t_min to 0; without `clean` N intervals that end at t_min.  Shapes: -> [steps + 1].
    Raises ValueError if t = 0 is not clean.  Source: Karras, Aittala, Aila, Laine 2022, eq. 5.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> [round(t, 3) for t in karras_times(edm(), 3).tolist()]
    [80.0, 2.515, 0.002, 0.0]
    """
    first, last = (jnp.exp(-0.5 * process.log_snr(t) / rho) for t in (process.t_max, process.t_min))
    return _at_levels(process, steps, clean, lambda place: -2 * rho * jnp.log(first + place * (last - first)))


def table_times(process: Process, steps: int) -> Array:
    r"""A part of the steps of a table, as DDIM takes it, then the clean point.

    $t_i = (1+\mathrm{round}(k_{S-i}))/T,\quad k = \mathrm{linspace}(0, T-1, S)$, and $t_S = 0$

    S = `steps` intervals from 1 to 0.  Shapes: -> [steps + 1].  Raises ValueError for a process without a table and for more
    steps than it has.  Source: Song, Meng, Ermon 2021, appendix D.2 (linear).

    >>> from dlvm_jax.functional.diffusion.schedules import from_recursion, linear_betas
    >>> table_times(from_recursion(linear_betas(8)), 2).tolist()
    [1.0, 0.125, 0.0]
    """
    if process.steps is None:
        raise ValueError(
            "this process has no table of steps; make it with from_recursion, or take another grid"
        )
    if not 1 <= steps <= process.steps:
        raise ValueError(
            f"a table of {process.steps} steps has grids of 1 to {process.steps} steps, got {steps}"
        )
    chosen = np.round(np.linspace(process.steps - 1, 0, steps)) + 1
    return jnp.append(jnp.asarray(chosen / process.steps, float), 0.0)
