r"""Exponential integrators of the probability-flow ODE and of the reverse SDE: DPM-Solver, DPM-Solver++ and its SDE version.

With h = log(alpha / sigma), half the log-SNR, the ODE is linear but for the network: over a step of length H = h_s - h_t
  x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^H e^(tau - H) x_0(tau) dtau          ("data" form, DPM-Solver++)
  x_s = (alpha_s / alpha_t) x_t - sigma_s int_0^H e^(H - tau) epsilon(tau) dtau      ("noise" form, DPM-Solver)
and a method is a polynomial for x_0 or epsilon.  Its powers integrate to phi functions, so a constant prediction is exact.
"""

import math

import jax.numpy as jnp
from jax import lax

from dlvm_jax.functional.diffusion.process import Process, alpha, posterior, sigma
from dlvm_jax.functional.diffusion.solvers import Solver, finish, time_between
from dlvm_jax.functional.diffusion.targets import from_x0
from dlvm_jax.functional.types import Array, Denoiser, Numeric

__all__ = ["dpm_multistep", "dpm_sde", "dpm_singlestep", "phi"]


def phi(k: int, z: Numeric) -> Array:
    r"""The functions of exponential integrators.

    $\varphi_k(z) = \int_0^1e^{(1-\theta)z}\frac{\theta^{k-1}}{(k-1)!}\,d\theta = \sum_n\frac{z^n}{(n+k)!}$

    Also where the closed form cancels.  Shapes: `k` = 1, 2, 3, z any -> same.
    Source: Hochbruck & Ostermann 2010, eq. 2.10 and 2.11.

    >>> [round(float(phi(k, 0.0)), 6) for k in (1, 2, 3)]
    [1.0, 0.5, 0.166667]
    """
    z = jnp.asarray(z, float)
    small = abs(z) < 1
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    series = jnp.zeros_like(z)
    for n in reversed(range(18)):  # 1 / 18! is below a double's rounding
        series = series * near + 1 / math.factorial(n + k)
    closed = jnp.exp(far)
    for j in range(k):
        closed = (closed - 1 / math.factorial(j)) / far
    return jnp.where(small, series, closed)


def _half(process, t):
    return 0.5 * process.log_snr(t)


def _wide(x):
    """The type of log-SNR in a state: at least float32, since differences of it over a step are small."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _network(process, form, x0, x, t):
    return x0 if form == "data" else from_x0(process, "epsilon", x0, x, t)


def _advance(process, form, x, t, s, constant, linear: Numeric = 0.0, quadratic: Numeric = 0.0):
    """x_s when the network is constant + linear theta + quadratic theta^2, with theta the part of H that is gone.

    `constant` and the rest may carry other weights: each is multiplied by gain * k! phi_(k+1).
    """
    length = _half(process, s) - _half(process, t)
    if form == "data":
        keep, gain, z = sigma(process, s) / sigma(process, t), alpha(process, s) * length, -length
    else:
        keep, gain, z = alpha(process, s) / alpha(process, t), -sigma(process, s) * length, length
    return keep * x + gain * (phi(1, z) * constant + phi(2, z) * linear + 2 * phi(3, z) * quadratic)


def _single(process, form, denoise, order, x, t, s, first):
    """One step of order 1, 2 or 3 from the network's value `first` at t."""
    start, length = _half(process, t), _half(process, s) - _half(process, t)
    low, high = jnp.minimum(s, t), jnp.maximum(s, t)

    def inside(share):
        time = time_between(process, low, high, 2 * (start + share * length)).astype(jnp.result_type(t))
        return time, (_half(process, time) - start) / length

    def network(x, t):
        return _network(process, form, denoise(x, t).astype(x.dtype), x, t)

    def advance(u, *polynomial):
        return _advance(process, form, x, t, u, *polynomial)

    if order == 1:
        return advance(s, first)
    u, share = inside(1 / order)
    change = network(advance(u, first), u) - first
    if order == 2:
        return advance(s, first + change / (2 * share))
    v, later = inside(2 / 3)
    change = network(advance(v, first, change * later / share), v) - first
    return advance(s, first, change / later)


def _check(form, order, orders):
    if form not in ("data", "noise"):
        raise ValueError(f"form is 'data' (DPM-Solver++) or 'noise' (DPM-Solver), got {form!r}")
    if order not in orders:
        raise ValueError(f"order is one of {orders}, got {order!r}")


def dpm_singlestep(process: Process, denoise: Denoiser, order: int = 3, form: str = "data") -> Solver:
    r"""DPM-Solver-1, -2, -3 (form "noise") and DPM-Solver++ 1, 2S, 3S (form "data"), each step by itself.

    $x_s = \frac{\sigma_s}{\sigma_t}x_t + \alpha_s\int_0^He^{\tau-H}\hat x_0(\tau)\,d\tau$, or
    $\frac{\alpha_s}{\alpha_t}x_t - \sigma_s\int_0^He^{H-\tau}\hat\epsilon(\tau)\,d\tau$, with
    $H = \tfrac12(\lambda_s-\lambda_t)$ and the prediction inside the step from `order` evaluations

    They lie at 1/2, or at 1/3 and 2/3, of the step in log-SNR.  Order 1 is DDIM.  No draws.  Raises ValueError for another
    order or form.
    Shapes: x any -> `Solver`.  Source: Lu, Zhou, Bao et al. 2022 (DPM-Solver), algorithms 1 and 2; Lu, Zhou, Bao et al. 2022
    (DPM-Solver++), algorithm 1.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> solver = dpm_singlestep(edm(), lambda x, t: jnp.zeros_like(x), 3)
    >>> solver.step(solver.init(jnp.ones(1)), 4.0, 3.0, None)[0].round(5).tolist()
    [0.75]
    """
    _check(form, order, (1, 2, 3))

    def step(state, t, s, noise, x0):
        first = _network(process, form, x0, state[0], t)
        return _single(process, form, denoise, order, state[0], t, s, first).astype(x0.dtype), x0

    return Solver(lambda x: (x, x), finish(process, denoise, step), 0, process)


def _slope(process, values, halves, count, length):
    """Divided differences over one and two steps back, in units of this step; zero where there is no history yet."""
    one = jnp.where(count > 0, (halves[0] - halves[1]) / length, 1.0)
    two = jnp.where(count > 1, (halves[0] - halves[2]) / length, 2.0 * one)
    first = (values[0] - values[1]) / one
    second = (first - (values[1] - values[2]) / (two - one)) / two
    return jnp.where(count > 0, first, 0.0), jnp.where(count > 1, second, 0.0), one


def dpm_multistep(process: Process, denoise: Denoiser, order: int = 2, form: str = "data") -> Solver:
    r"""DPM-Solver++ 2M and 3M (form "data"; or "noise"): a polynomial through earlier predictions, one evaluation a step.

    $\hat x_0(\theta) = F_0 + d_1\theta + d_2\,\theta(\theta+a)$, Newton's polynomial through this step's $F_0$ at $\theta=0$
    and the ones before it at $-a$ and $-b$, $\theta = \tau/H$

    Order 2 takes the average of the line over the step, as published.  Order 3 integrates the parabola; it starts with a
    singlestep of order 2 (one more evaluation) and a step along the line, since a start of first order would stay the largest
    error for ever.  No draws.  Raises ValueError for another order or form.
    Shapes: x any -> `Solver`.  Source: Lu, Zhou, Bao et al. 2022 (DPM-Solver++), algorithm 2 and appendix; Hochbruck &
    Ostermann 2010.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> solver = dpm_multistep(edm(), lambda x, t: jnp.zeros_like(x), 3)
    >>> solver.step(solver.init(jnp.ones(1)), 4.0, 3.0, None)[0].round(5).tolist()
    [0.75]
    """
    _check(form, order, (2, 3))

    def init(x):
        # x, last x_0; the network at the two steps before, their half log-SNR, and how many steps there were
        half = jnp.zeros(2, _wide(x))
        return x, x, jnp.zeros((2, *x.shape), x.dtype), half, jnp.zeros((), int)

    def step(state, t, s, noise, x0):
        x, _, past, halves, count = state
        current, here = _network(process, form, x0, x, t), _half(process, t)
        values = jnp.stack([current, *past])
        halves = jnp.stack([here, *halves]).astype(halves.dtype)
        line, bend, one = _slope(process, values, halves, count, _half(process, s) - here)

        def multi():
            if order == 2:
                return _advance(process, form, x, t, s, current + line / 2)
            return _advance(process, form, x, t, s, current, line + one * bend, bend)

        def single():
            return _single(process, form, denoise, 2, x, t, s, current)

        new = multi() if order == 2 else lax.cond(count == 0, single, multi)
        return new.astype(x.dtype), x0, values[:2], halves[:2], count + 1

    return Solver(init, finish(process, denoise, step), 0, process)


def dpm_sde(process: Process, denoise: Denoiser) -> Solver:
    r"""SDE-DPM-Solver++ 2M: the reverse SDE with one evaluation a step and weak order 2.

    $x_s = \tilde\mu\big(x_t,\ F_0+\tfrac12d_1\big) + \tilde\sigma z$, the ancestral step at the prediction extrapolated to
    the middle of the step, with $d_1$ the change of the prediction over the last step, scaled to the length of this one

    One draw a step; the first step is the ancestral one.  Shapes: x any -> `Solver`.  Source: Lu, Zhou, Bao et al. 2022
    (DPM-Solver++).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> solver = dpm_sde(edm(), lambda x, t: jnp.zeros_like(x))
    >>> solver.step(solver.init(jnp.ones(1)), 4.0, 3.0, jnp.zeros((1, 1)))[0].round(5).tolist()
    [0.5625]
    """

    def step(state, t, s, noise, x0):
        x, last, before, count = state
        here = _half(process, t)
        ratio = jnp.where(count > 0, (_half(process, s) - here) / (here - before), 0.0)
        mean, std = posterior(process, x, x0 + 0.5 * ratio * (x0 - last), s, t)
        return mean + std * noise[0], x0, here.astype(before.dtype), count + 1

    # `before` is far from any half log-SNR until the second step writes it
    init = lambda x: (x, x, jnp.full((), 1e4, _wide(x)), jnp.zeros((), int))
    return Solver(init, finish(process, denoise, step), 1, process)
