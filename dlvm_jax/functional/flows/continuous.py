r"""Continuous flows: the solution of an ordinary differential equation $dx/dt = v(x, t)$ from t = 0 (noise) to t = 1 (data).

A velocity is a function `velocity(x, t)` of x [*batch, *event] and of t, a scalar here and [*batch] in the loss, that
treats the batch row by row.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlvm_jax.functional.diffusion.score_matching import exact_divergence, hutchinson_divergence
from dlvm_jax.functional.numerics import as_integer, as_wide, runge_kutta, sum_event
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["continuous", "continuous_inverse", "flow_matching_loss"]


def _integrate(z, velocity, start, stop, steps, event_ndim, probe):
    z = as_wide(z)
    z = z.astype(jnp.result_type(z, jax.eval_shape(velocity, z, jnp.zeros((), z.dtype)).dtype))

    def slope(state, t):
        field = lambda z: velocity(z, t)
        if probe is None:
            return exact_divergence(field, state[0], event_ndim)
        return hutchinson_divergence(field, state[0], jnp.asarray(probe, z.dtype), event_ndim)

    state = z, sum_event(jnp.zeros_like(z), event_ndim)
    times = jnp.linspace(start, stop, 2 * as_integer(steps, "the number of steps") + 1, dtype=z.dtype)
    return runge_kutta(slope, state, times, stop - start)


def continuous(
    z: Array,
    velocity: Callable[[Array, Any], Array],
    steps: int = 20,
    event_ndim: int = 1,
    probe: Array | None = None,
) -> tuple[Array, Array]:
    r"""The flow of a velocity field (neural ODE, FFJORD) from t = 0 to t = 1 and its log-determinant, by Runge-Kutta steps.

    $y = z + \int_0^1v(x_t,t)\,dt,\quad \log|\det\tfrac{\partial y}{\partial z}| = \int_0^1\nabla\cdot v(x_t,t)\,dt$

    The divergence is exact, D derivatives an evaluation, or estimated without bias by one `probe` (`jax.random.rademacher`)
    that is kept along the whole path.  4 evaluations a step; both integrals have an error of order steps^-4, so compare with
    twice the `steps`.  Shapes: `z`, `probe` [*batch, *event] -> y alike, log_det [*batch].  Raises ValueError for no steps.
    Source: Chen et al. 2018, eq. 8; Grathwohl et al. 2019, eq. 8.

    >>> y, log_det = continuous(jnp.ones(2), lambda x, t: x)
    >>> bool(jnp.allclose(y, jnp.e, rtol=1e-5)), bool(jnp.isclose(log_det, 2.0))
    (True, True)
    """
    return _integrate(z, velocity, 0.0, 1.0, steps, event_ndim, probe)


def continuous_inverse(
    y: Array,
    velocity: Callable[[Array, Any], Array],
    steps: int = 20,
    event_ndim: int = 1,
    probe: Array | None = None,
) -> tuple[Array, Array]:
    r"""The flow back from t = 1 to t = 0 and its log-determinant.

    $z = y - \int_0^1v(x_t,t)\,dt,\quad \log|\det\tfrac{\partial z}{\partial y}| = -\int_0^1\nabla\cdot v(x_t,t)\,dt$

    It solves the same equation backwards, so it inverts `continuous` up to the error of both, of order steps^-4.
    Shapes: as `continuous`, and errors.  Source: Chen et al. 2018, eq. 8.

    >>> z, log_det = continuous_inverse(jnp.full(2, jnp.e), lambda x, t: x)
    >>> bool(jnp.allclose(z, 1.0, rtol=1e-5)), bool(jnp.isclose(log_det, -2.0))
    (True, True)
    """
    return _integrate(y, velocity, 1.0, 0.0, steps, event_ndim, probe)


def flow_matching_loss(
    velocity: Callable[[Array, Any], Array], x0: Array, x1: Array, t: Numeric, event_ndim: int = 1
) -> Array:
    r"""Conditional flow matching on straight paths from noise to data: regression on their velocity, without solving the ODE.

    $\|v(x_t,t) - (x_1-x_0)\|^2,\quad x_t = (1-t)x_0 + t\,x_1$

    Its minimiser over independent draws $x_0\sim p_0$, $x_1\sim$ data, $t\sim U(0,1)$ is a velocity whose `continuous` flow takes
    p_0 to the distribution of the data.
    Shapes: `x0`, `x1` [*batch, *event], `t` [*batch]; `velocity(x_t, t)` -> [*batch, *event] -> [*batch].  Raises ValueError
    for others.
    Source: Lipman et al. 2023, eq. 23 (sigma_min = 0); Liu, Gong, Liu 2023, eq. 1.

    >>> flow_matching_loss(lambda x, t: 0 * x, jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.array([0.5]))
    Array([2.], dtype=float32)
    """
    x0, x1, t = as_wide(x0, x1, t)
    if x0.shape != x1.shape or t.shape not in ((), x0.shape[: x0.ndim - event_ndim]):
        raise ValueError(
            f"x0, x1 are [*batch, *event] and t [*batch], got shapes {x0.shape}, {x1.shape}, {t.shape}"
        )
    share = jnp.reshape(t, t.shape + (1,) * event_ndim)
    error = velocity((1 - share) * x0 + share * x1, t) - (x1 - x0)
    return sum_event(jnp.square(error), event_ndim)
