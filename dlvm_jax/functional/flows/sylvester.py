"""The Sylvester flow: M planar flows at once, in an orthonormal basis that makes the determinant a product."""

import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows.roots import monotone_root
from dlvm_jax.functional.numerics import as_wide, einsum, inner_product, sum_event
from dlvm_jax.functional.types import Array

__all__ = ["sylvester", "sylvester_inverse"]


def _floats(z, q, r, r_tilde, b):
    z, r, r_tilde, b = as_wide(z, r, r_tilde, b)
    q = q if q is None else as_wide(q)
    size = z.shape[-1] if q is None else q.shape[-1]
    if not r.shape[-2:] == r_tilde.shape[-2:] == (size, size) or b.shape[-1:] != (size,):
        raise ValueError(
            f"r and r_tilde are [*batch, {size}, {size}] here and b [*batch, {size}], got shapes "
            f"{r.shape}, {r_tilde.shape}, {b.shape}"
        )
    return z, q, r, r_tilde, b


def _product(matrix, vector):
    return einsum("...ij,...j->...i", matrix, vector)


def _coordinates(z, q):
    return z if q is None else einsum("...dm,...d->...m", q, z)


def _shift(h, q, r):
    """Q R h, what the flow adds."""
    shift = _product(r, h)
    return shift if q is None else _product(q, shift)


def _log_det(h, r, r_tilde):
    overlap = jnp.diagonal(r, axis1=-2, axis2=-1) * jnp.diagonal(r_tilde, axis1=-2, axis2=-1)
    return sum_event(jnp.log1p(overlap * (1 - jnp.square(h))), 1)


def sylvester(z: Array, q: Array | None, r: Array, r_tilde: Array, b: Array) -> tuple[Array, Array]:
    r"""The Sylvester flow and its log-determinant.

    $y = z + QR\tanh(\tilde RQ^\top z + b),\quad
        \log|\det\tfrac{\partial y}{\partial z}| = \sum_{i=1}^M\log(1 + r_{ii}\tilde r_{ii}\,h'_i),
        \ h' = 1 - \tanh^2(\tilde RQ^\top z + b)$

    Shapes: `z` [*batch, D], `q` [*batch, D, M] with orthonormal columns (`orthogonal.orthonormal`) or None for the identity,
    `r` and `r_tilde` [*batch, M, M] upper triangular with $r_{ii}\tilde r_{ii} > -1$ (`constraints.sylvester_triangle`),
    `b` [*batch, M] -> y [*batch, D], log_det [*batch].  Raises ValueError for others.
    Source: van den Berg et al. 2018, theorems 1 and 2, section 3.

    >>> two = 2 * jnp.eye(1)
    >>> float(jnp.exp(sylvester(jnp.zeros(1), None, two, two, jnp.zeros(1))[1]))
    5.0
    """
    z, q, r, r_tilde, b = _floats(z, q, r, r_tilde, b)
    h = jnp.tanh(_product(r_tilde, _coordinates(z, q)) + b)
    return z + _shift(h, q, r), _log_det(h, r, r_tilde)


def sylvester_inverse(y: Array, q: Array | None, r: Array, r_tilde: Array, b: Array) -> tuple[Array, Array]:
    r"""The inverse of the Sylvester flow, one scalar equation after another from the last row up, and its log-determinant.

    $z = y - QR\tanh(\tilde Ra+b),\quad
        a_i + r_{ii}\tanh\big(\tilde r_{ii}a_i + b_i + \textstyle\sum_{j>i}\tilde r_{ij}a_j\big)
        = (Q^\top y)_i - \sum_{j>i}r_{ij}h_j,\ i = M,\ldots,1$

    Shapes: as in `sylvester` -> z [*batch, D], log_det [*batch], minus that of `sylvester` at z.
    Source: van den Berg et al. 2018, theorem 2 (existence of the inverse; back-substitution computes it).

    >>> parameters = (None, 2 * jnp.eye(1), 2 * jnp.eye(1), jnp.ones(1))
    >>> z, _ = sylvester_inverse(sylvester(jnp.ones(1), *parameters)[0], *parameters)
    >>> bool(jnp.allclose(z, 1.0, atol=1e-6))
    True
    """
    y, q, r, r_tilde, b = _floats(y, q, r, r_tilde, b)
    target = _coordinates(y, q)
    shape = jnp.broadcast_shapes(target.shape, r.shape[:-1], r_tilde.shape[:-1], b.shape)
    target, b = jnp.broadcast_to(target, shape), jnp.broadcast_to(b, shape)
    columns = jnp.arange(shape[-1])

    def solve_row(solved, row):
        a, h = solved  # zero where not yet solved
        i, y_i, b_i, r_i, r_tilde_i = row
        scale, slope = r_i[..., i], r_tilde_i[..., i]
        inner = b_i + inner_product(r_tilde_i, a)
        outer = y_i - inner_product(r_i, h)
        reach = jnp.abs(scale)
        a_i = monotone_root(
            lambda t: t + scale * jnp.tanh(slope * t + inner), outer, outer - reach, outer + reach
        )
        h_i = jnp.tanh(slope * a_i + inner)
        here = columns == i
        return (jnp.where(here, a_i[..., None], a), jnp.where(here, h_i[..., None], h)), None

    rows = (
        columns,
        *(jnp.moveaxis(x, -1, 0) for x in (target, b)),
        *(jnp.moveaxis(x, -2, 0) for x in (r, r_tilde)),
    )
    (_, h), _ = jax.lax.scan(solve_row, (jnp.zeros_like(target), jnp.zeros_like(target)), rows, reverse=True)
    return y - _shift(h, q, r), -_log_det(h, r, r_tilde)
