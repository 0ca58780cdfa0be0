r"""Solvers that follow the backward kernels of the chain: ancestral sampling (DDPM) and its implicit relatives (DDIM)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from dlvm_jax.functional.diffusion.process import Process, alpha, posterior, sigma, transition
from dlvm_jax.functional.diffusion.solvers import Solver, finish, is_clean
from dlvm_jax.functional.types import Array, Denoiser

__all__ = ["ancestral", "ddim"]


def ancestral(process: Process, denoise: Callable[[Array, Any], Any], variance: str = "small") -> Solver:
    r"""Ancestral sampling (DDPM): the posterior of the chain with the predicted clean point put in.

    $x_s = \tilde\mu(x_t,\hat x_0) + \varsigma z$ with $\varsigma^2$ the posterior's variance ("small"), the transition's
    ("large"), or between the two by the network's $v$ ("learned"): $\log\varsigma^2 = v\log\varsigma_{large}^2 +
    (1-v)\log\varsigma_{small}^2$

    denoise: for "learned" it returns (x_0, v) with v in [0, 1], of the shape of x.
    No noise is added in the step to a clean point.  One draw a step; weak order 1.  Raises ValueError for another variance.
    Shapes: x any -> `Solver`.  Source: Ho, Jain, Abbeel 2020, algorithm 2 and section 3.2; Nichol & Dhariwal 2021, eq. 15.

    >>> from dlvm_jax.functional.diffusion import schedules, solvers
    >>> process = schedules.edm()
    >>> solver = ancestral(process, lambda x, t: x / (1 + t**2))
    >>> solvers.sample(solver, solvers.karras_times(process, 9), jnp.ones((4, 2)), jnp.zeros((9, 1, 4, 2))).shape
    (4, 2)
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"variance is 'small', 'large' or 'learned', got {variance!r}")

    def step(state, t, s, noise):
        predicted = denoise(state[0], t)
        x0, share = predicted if variance == "learned" else (predicted, float(variance == "large"))
        x0 = x0.astype(state[0].dtype)
        mean, small = posterior(process, state[0], x0, s, t)
        clean = is_clean(process, s)
        small = jnp.where(clean, 1.0, small)  # no log of zero below
        std = small ** (1 - share) * transition(process, s, t)[1] ** share
        return mean + jnp.where(clean, 0.0, std) * noise[0], x0

    return Solver(lambda x: (x, x), step, 1, process)


def ddim(process: Process, denoise: Denoiser, eta: float = 0.0) -> Solver:
    r"""DDIM: non-Markovian chains with the same marginals, deterministic for eta = 0, ancestral ("small") for eta = 1.

    $x_s = \alpha_s\hat x_0 + \sqrt{\sigma_s^2-\eta^2\tilde\sigma^2}\,\hat\epsilon + \eta\tilde\sigma z,\quad
        \tilde\sigma^2 = \sigma_s^2(1-e^{\lambda_t-\lambda_s})$

    With eta = 0 it is Euler's method in sigma / alpha, and DPM-Solver-1: order 1, no draws.  Otherwise one draw a step.
    Raises ValueError for eta outside [0, 1].  Shapes: x any -> `Solver`.  Source: Song, Meng, Ermon 2021, eq. 12 and 16, for
    any process.

    >>> from dlvm_jax.functional.diffusion import schedules
    >>> solver = ddim(schedules.edm(), lambda x, t: jnp.zeros_like(x))
    >>> solver.step(solver.init(jnp.ones(1)), 4.0, 3.0, None)[0].tolist()
    [0.75]
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta lies in [0, 1], got {eta}")

    def step(state, t, s, noise, x0):
        fall = process.log_snr(t) - process.log_snr(s)
        # sqrt(sigma_s^2 - eta^2 posterior variance) / sigma_t
        kept = jnp.sqrt(1 - eta**2 + eta**2 * jnp.exp(fall)) * sigma(process, s) / sigma(process, t)
        x = kept * state[0] + (alpha(process, s) - kept * alpha(process, t)) * x0
        if eta:
            x = x + eta * sigma(process, s) * jnp.sqrt(-jnp.expm1(fall)) * noise[0]
        return x, x0

    return Solver(lambda x: (x, x), finish(process, denoise, step), 1 if eta else 0, process)
