"""Unconstrained monotonic networks: the integral of a positive function, by a fixed rule, as a bijection of the line."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.flows.roots import monotone_root
from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["monotonic", "monotonic_inverse"]

_FARTHEST = 2.0**40  # the search for a bracket ends here, for a g that is not bounded away from zero


def _integral(g, offset, nodes):
    """z -> offset + the rule's integral of g from 0 to z."""
    x, weights = np.polynomial.legendre.leggauss(nodes)

    def integrate(z):
        share, weight = (jnp.asarray(v, z.dtype) for v in ((1 + x) / 2, weights / 2))
        return offset + z * jnp.sum(weight * g(z[..., None] * share), axis=-1)

    return integrate


def _with_log_slope(f, z):
    value, slope = jax.jvp(f, (z,), (jnp.ones_like(z),))
    return value, jnp.log(jnp.abs(slope))


def monotonic(z: Array, g: Callable[[Array], Array], offset: Numeric, nodes: int = 32) -> tuple[Array, Array]:
    r"""The integral of a positive function from zero (UMNN), by a Gauss-Legendre rule, and its log-derivative.

    $y = b + \int_0^z g(t)\,dt \approx b + z\sum_{q=1}^Q w_q\,g(z x_q)$

    The log-derivative is that of the sum on the right, which is what is computed, not log g(z): the density is exact whatever
    the rule.  The sum increases where the rule resolves g, so g should be smooth and bounded away from zero; where it falls, it
    is no bijection, and the log-derivative is that of its size.
    Shapes: `z` [*batch], `g` maps [*batch, Q] to [*batch, Q], each number by itself (`constraints.positive`), `offset` (b)
    broadcasts to [*batch], `nodes` = Q -> y [*batch], log_det [*batch].  Source: Wehenkel & Louppe 2019, eq. 1.

    >>> y, log_det = monotonic(jnp.array([3.0]), lambda t: 1 + t**2, 0.0)
    >>> bool(jnp.allclose(y, 12.0)), bool(jnp.allclose(log_det, jnp.log(10.0)))
    (True, True)
    """
    z, offset = as_wide(z, offset)
    return _with_log_slope(_integral(g, offset, nodes), z)


def _beyond(f, y, sign):
    """By doubling, a point on the side `sign` of zero at which f has passed y."""

    def short(end):
        return (sign * (f(end) - y) < 0) & (jnp.abs(end) < _FARTHEST)

    def double(state):
        end, is_short = state
        end = jnp.where(is_short, 2 * end, end)
        return end, short(end)

    return jax.lax.while_loop(lambda state: jnp.any(state[1]), double, (sign, short(sign)))[0]


def monotonic_inverse(
    y: Array, g: Callable[[Array], Array], offset: Numeric, nodes: int = 32
) -> tuple[Array, Array]:
    r"""The inverse of the integral of a positive function, by one scalar equation, and its log-derivative.

    $z:\quad b + z\sum_q w_q\,g(z x_q) = y$

    with a bracket that is doubled until it holds the root.
    Shapes: `y` [*batch], the others as in `monotonic` -> z [*batch], log_det [*batch], minus that of `monotonic` at z.
    Source: Wehenkel & Louppe 2019, section 4.

    >>> z, _ = monotonic_inverse(jnp.array([12.0]), lambda t: 1 + t**2, 0.0)
    >>> bool(jnp.allclose(z, 3.0))
    True
    """
    y, offset = as_wide(y, offset)
    f = _integral(g, offset, nodes)
    sign = jnp.where(y >= offset, 1.0, -1.0).astype(y.dtype)  # f(0) is the offset
    end = _beyond(f, jax.lax.stop_gradient(y), sign)
    z = monotone_root(f, y, jnp.minimum(end, 0.0), jnp.maximum(end, 0.0))
    return z, -_with_log_slope(f, z)[1]
