"""Roots of increasing scalar equations: the inverse of a bijection that has no closed one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["monotone_root"]

# 2^-30 of the bracket, then three Newton steps square the error thrice: rounding, in double precision too.
_BISECTIONS, _NEWTON_STEPS = 30, 3


def monotone_root(f: Callable[[Array], Array], y: Numeric, lower: Numeric, upper: Numeric) -> Array:
    r"""The root of an increasing scalar function in a bracket, elementwise, with the derivative of the exact root.

    $x = f^{-1}(y):\quad f(x) = y,\qquad dx = \frac{dy - \partial_\theta f\,d\theta}{f'(x)}$

    Derivatives (forward, reverse, of any order) follow the implicit function theorem, for y and for whatever f closes over;
    the iterations, a fixed number of bisections and of Newton steps, are not differentiated.
    Shapes: `f` maps [*batch] to [*batch] elementwise; `y`, `lower`, `upper` broadcast to [*batch] -> [*batch].  A root outside
    [lower, upper] is not found: the nearer end is returned.
    Source: Press et al. 2007, "Numerical Recipes", section 9.4; Krantz & Parks 2013, theorem 3.3.1.

    >>> monotone_root(lambda x: x**3, jnp.array([8.0, -27.0]), -10.0, 10.0)
    Array([ 2., -3.], dtype=float32)
    """
    y, lower, upper = jnp.broadcast_arrays(*as_wide(y, lower, upper))

    def solve(residual, start):
        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            below = residual(middle) < 0
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (lower, upper))

        def newton(_, x):
            value, slope = jax.jvp(residual, (x,), (jnp.ones_like(x),))
            step = jnp.where(slope > 0, value / jnp.where(slope > 0, slope, 1.0), 0.0)
            return jnp.clip(x - step, low, high)

        return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, 0.5 * (low + high))

    def divide(slope, right):
        return right / slope(jnp.ones_like(right))

    return jax.lax.custom_root(lambda x: f(x) - y, y, solve, divide)
