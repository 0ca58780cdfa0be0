r"""Solvers of the reverse SDE, and Langevin correction at a fixed time.

dx = [f x - (1 + l^2) / 2 g^2 score] dt + l g dw, backwards in time, has the marginals of the process for every churn l.
"""

import jax.numpy as jnp

from dlvm_jax.functional.diffusion.process import Process, diffusion, drift, expand_to_event, sigma
from dlvm_jax.functional.diffusion.solvers import Solver, finish
from dlvm_jax.functional.diffusion.targets import from_x0
from dlvm_jax.functional.numerics import as_float
from dlvm_jax.functional.types import Array, Denoiser, Numeric

__all__ = ["euler_maruyama", "langevin", "langevin_size", "predictor_corrector"]


def euler_maruyama(process: Process, denoise: Denoiser, churn: float = 1.0) -> Solver:
    r"""The reverse SDE by Euler and Maruyama's method.

    $x_s = x_t + \big[f(t)\,x_t - \tfrac{1+l^2}2g(t)^2\,\nabla\log q_t(x_t)\big](s-t) + l\,g(t)\sqrt{|s-t|}\,z$

    churn: l; 1 is the reverse SDE, 0 the probability-flow ODE by Euler's method.
    Coefficients are those at t.  One draw a step, none without churn; weak order 1.  Raises ValueError for a churn below 0.
    Shapes: x any -> `Solver`.  Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 6; Zhang & Chen 2023 (churn).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> solver = euler_maruyama(edm(), lambda x, t: jnp.zeros_like(x))
    >>> solver.step(solver.init(jnp.ones(1)), 4.0, 3.0, jnp.zeros((1, 1)))[0].tolist()
    [0.5]
    """
    if not 0 <= churn < float("inf"):
        raise ValueError(f"churn is a number and not negative, got {churn}")

    def step(state, t, s, noise, x0):
        x, g = state[0], diffusion(process, t)
        slope = drift(process, t) * x - 0.5 * (1 + churn**2) * g**2 * from_x0(process, "score", x0, x, t)
        x = x + slope * (s - t)
        if churn:
            x = x + churn * g * jnp.sqrt(abs(s - t)) * noise[0]
        return x, x0

    return Solver(lambda x: (x, x), finish(process, denoise, step), 1 if churn else 0, process)


def langevin(x: Array, score: Array, size: Numeric, noise: Array) -> Array:
    r"""One step of unadjusted Langevin dynamics.

    $x' = x + e\,\nabla\log q(x) + \sqrt{2e}\,z$

    On N(0, v) its stationary variance is v / (1 - e / (2 v)), not v.  Shapes: `x`, `score`, `noise` [*batch, *event], size e
    scalar or [*batch] -> [*batch, *event].  Source: Song & Ermon 2019, eq. 4 (whose epsilon is 2 e).

    >>> langevin(jnp.ones(1), -jnp.ones(1), 0.5, jnp.zeros(1)).tolist()
    [0.5]
    """
    x, size = as_float(x), as_float(expand_to_event(size, x))
    return x + size * score + jnp.sqrt(2 * size) * noise


def langevin_size(process: Process, t: Numeric, snr: Numeric) -> Array:
    r"""Step size of Langevin dynamics from a ratio r of signal to noise.

    $e = 2\,r^2\,\sigma_t^2$

    Published code has $2r^2\lVert z\rVert^2/\lVert\nabla\log q\rVert^2$, averaged over the batch, which is this one where the
    score is that of pure noise; but its step depends on neighbours, and on the very point and noise that it scales, which
    biases the law.  Shapes: t any -> same.
    Source: Song & Ermon 2019, algorithm 1 (a step proportional to the variance of the noise); Song, Sohl-Dickstein, Kingma et
    al. 2021, algorithms 4 and 5 (r).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> float(langevin_size(edm(), 2.0, 0.5))
    2.0
    """
    return 2 * jnp.square(snr * sigma(process, t))


def predictor_corrector(
    process: Process, denoise: Denoiser, predictor: Solver, snr: Numeric = 0.16, corrections: int = 1
) -> Solver:
    r"""Langevin steps at time t, then a step of another solver from t to s.

    $x\leftarrow x + e\,\nabla\log q_t(x) + \sqrt{2e}\,z$ `corrections` times, then $x_s$ = `predictor`$(x)$

    Correction comes first, so the result ends with the predictor's step and no time without noise is corrected.
    predictor: a one-step `Solver`; its history, if any, is not corrected.
    snr: r of `langevin_size`.
    Draws: the corrections' and the predictor's.  Raises ValueError for fewer than one correction.
    Shapes: x any -> `Solver`.  Source: Song, Sohl-Dickstein, Kingma et al. 2021, algorithms 2 and 3.

    >>> from dlvm_jax.functional.diffusion import schedules
    >>> denoise = lambda x, t: x / (1 + t**2)
    >>> predictor = euler_maruyama(schedules.edm(), denoise)
    >>> predictor_corrector(schedules.edm(), denoise, predictor, corrections=2).draws
    3
    """
    if corrections < 1:
        raise ValueError(f"there is at least one correction, got {corrections}")

    def step(state, t, s, noise):
        x = state[0]
        for z in noise[:corrections]:
            score = from_x0(process, "score", denoise(x, t).astype(x.dtype), x, t)
            x = langevin(x, score, langevin_size(process, t, snr), z)
        return predictor.step((x, *state[1:]), t, s, noise[corrections:])

    return Solver(predictor.init, step, corrections + predictor.draws, process)
