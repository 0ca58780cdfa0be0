"""The planar flow: expansion or contraction along one direction, across a plane."""

import jax.numpy as jnp

from dlvm_jax.functional.flows.roots import monotone_root
from dlvm_jax.functional.numerics import as_wide, inner_product
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["planar", "planar_inverse"]


def _log_det(overlap, h):
    return jnp.log1p(overlap * (1 - jnp.square(h)))


def planar(z: Array, w: Array, u: Array, b: Numeric) -> tuple[Array, Array]:
    r"""The planar flow and its log-determinant.

    $y = z + u\tanh(w^\top z + b),\quad
        \log|\det\tfrac{\partial y}{\partial z}| = \log(1 + w^\top u\,[1-\tanh^2(w^\top z+b)])$

    Shapes: `z`, `w`, `u` broadcast to [*batch, D], `b` to [*batch] -> y [*batch, D], log_det [*batch].  Invertible for
    $w^\top u > -1$: take u from `constraints.planar_u_hat`.  Source: Rezende & Mohamed 2015, eq. 10 and 12.

    >>> y, log_det = planar(jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([1.0, 3.0]), 0.0)
    >>> y, float(jnp.exp(log_det))
    (Array([0., 0.], dtype=float32), 2.0)
    """
    z, w, u, b = as_wide(z, w, u, b)
    h = jnp.tanh(inner_product(w, z) + b)
    return z + u * h[..., None], _log_det(inner_product(w, u), h)


def planar_inverse(y: Array, w: Array, u: Array, b: Numeric) -> tuple[Array, Array]:
    r"""The inverse of the planar flow, by one scalar equation, and the log-determinant of the inverse.

    $z = y - u\tanh(t + b),\quad t + w^\top u\tanh(t+b) = w^\top y$

    Shapes: `y`, `w`, `u` broadcast to [*batch, D], `b` to [*batch] -> z [*batch, D], log_det [*batch], minus that of
    `planar` at z.  Source: Rezende & Mohamed 2015, appendix A.1.

    >>> parameters = (jnp.array([1.0, 0.0]), jnp.array([1.0, 3.0]), 0.2)
    >>> z, _ = planar_inverse(planar(jnp.ones(2), *parameters)[0], *parameters)
    >>> bool(jnp.allclose(z, 1.0, atol=1e-6))
    True
    """
    y, w, u, b = as_wide(y, w, u, b)
    overlap = inner_product(w, u)
    target, reach = inner_product(w, y), jnp.abs(overlap)
    t = monotone_root(lambda t: t + overlap * jnp.tanh(t + b), target, target - reach, target + reach)
    h = jnp.tanh(t + b)
    return y - u * h[..., None], -_log_det(overlap, h)
