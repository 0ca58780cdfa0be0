"""Affine, actnorm, permutation and linear maps; images keep their channels on the last axis."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlvm_jax.functional.numerics import as_float, as_wide, einsum, sum_event, unit_scale
from dlvm_jax.functional.types import Array, Numeric

__all__ = [
    "LU",
    "actnorm_statistics",
    "affine",
    "affine_inverse",
    "lu_from_matrix",
    "lu_linear",
    "lu_linear_inverse",
    "permute",
    "permute_inverse",
]


def _broadcast(*values):
    values = as_wide(*values)
    shape = jnp.broadcast_shapes(*(value.shape for value in values))
    return [jnp.broadcast_to(value, shape) for value in values]


def affine(z: Array, shift: Numeric, log_scale: Numeric, event_ndim: int = 1) -> tuple[Array, Array]:
    r"""Scale and shift each element, the map of a coupling layer (NICE, RealNVP, Glow).

    $y_i = \mu_i + \sigma_i z_i,\quad \log|\det\tfrac{\partial y}{\partial z}| = \sum_i\log\sigma_i$

    In a coupling layer the parameters are functions of the part that is left as it is; NICE has log_scale = 0.  A parameter that
    is shared, by all pixels say, counts once for every element.
    Shapes: `z`, `shift`, `log_scale` broadcast to [*batch, *event] -> y [*batch, *event], log_det [*batch].
    Source: Dinh, Sohl-Dickstein, Bengio 2017, eq. 7 and 8 (of a coupling layer).

    >>> affine(jnp.zeros((2, 3)), 1.0, jnp.log(2.0), event_ndim=2)[1] / jnp.log(2.0)
    Array(6., dtype=float32)
    """
    z, shift, log_scale = _broadcast(z, shift, log_scale)
    return shift + jnp.exp(log_scale) * z, sum_event(log_scale, event_ndim)


def affine_inverse(y: Array, shift: Numeric, log_scale: Numeric, event_ndim: int = 1) -> tuple[Array, Array]:
    r"""The inverse of `affine`, and the log-determinant of the inverse.

    $z_i = (y_i - \mu_i)/\sigma_i,\quad \log|\det\tfrac{\partial z}{\partial y}| = -\sum_i\log\sigma_i$

    Shapes: as `affine`.  Source: Dinh, Sohl-Dickstein, Bengio 2017, eq. 8.

    >>> affine_inverse(jnp.array([5.0]), 1.0, jnp.log(2.0))[0].round(5)
    Array([2.], dtype=float32)
    """
    y, shift, log_scale = _broadcast(y, shift, log_scale)
    return (y - shift) * jnp.exp(-log_scale), -sum_event(log_scale, event_ndim)


def actnorm_statistics(x: Array) -> tuple[Array, Array]:
    r"""Parameters of `affine` that give a batch zero mean and unit variance in each channel: actnorm's initial values.

    $\mu_c = -\bar x_c/s_c,\ \log\sigma_c = -\log s_c$, with the mean and standard deviation of channel c

    A pure function of the first batch: take it once, outside the training step.  A channel that is constant up to rounding
    keeps its scale.  Shapes: `x` [*all, C] -> shift [C], log_scale [C].  Source: Kingma & Dhariwal 2018, section 3.1.

    >>> actnorm_statistics(jnp.array([[1.0, 7.0], [3.0, 7.0]]))
    (Array([-2., -7.], dtype=float32), Array([-0., -0.], dtype=float32))
    """
    x = as_wide(x)
    x = x.reshape(-1, x.shape[-1])
    offset = x - x[0]  # exactly zero in a constant channel, and small compared with a large mean
    scale = unit_scale(offset.T)[:, 0]  # squares of very small or large numbers are no floats
    offset = offset / scale
    mean, std = x[0] + scale * jnp.mean(offset, 0), scale * jnp.std(offset, 0)
    rounding = 10 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(x), 0)
    std = jnp.where(std > rounding, std, 1.0)
    return -mean / std, -jnp.log(std)


def _no_volume(z, event_ndim):
    return jnp.zeros(z.shape[: z.ndim - event_ndim], jnp.promote_types(z.dtype, jnp.float32))


def _check_order(z, order):
    order = order if isinstance(order, Tracer) else np.asarray(order)
    if jnp.shape(order) != z.shape[-1:] or not jnp.issubdtype(jnp.result_type(order), np.integer):
        raise ValueError(
            f"the order of {z.shape[-1]} numbers is an integer for each, got {jnp.result_type(order)}{list(jnp.shape(order))}"
        )
    if not isinstance(order, Tracer) and (np.sort(order) != np.arange(order.size)).any():
        raise ValueError(f"an order has each of 0 to {order.size - 1} once, got {order.tolist()}")


def permute(z: Array, order: Array, event_ndim: int = 1) -> tuple[Array, Array]:
    r"""Reorder the last axis.

    $y_i = z_{\pi_i},\quad \log|\det| = 0$

    Shapes: `z` [*batch, *event], event [..., C]; `order` [C], a permutation of 0..C-1 -> y alike, log_det [*batch].  Raises
    ValueError for an order of another shape or type and, unless it is traced, for one that is no permutation.
    Source: Dinh, Sohl-Dickstein, Bengio 2017, section 3.5.

    >>> permute(jnp.array([5.0, 6.0, 7.0]), jnp.array([2, 0, 1]))[0]
    Array([7., 5., 6.], dtype=float32)
    """
    z = as_float(z)
    _check_order(z, order)
    return jnp.take(z, jnp.asarray(order), axis=-1), _no_volume(z, event_ndim)


def permute_inverse(y: Array, order: Array, event_ndim: int = 1) -> tuple[Array, Array]:
    r"""Undo `permute`.

    $z_{\pi_i} = y_i,\quad \log|\det| = 0$

    Shapes: as `permute`.  Source: Dinh, Sohl-Dickstein, Bengio 2017, section 3.5.

    >>> permute_inverse(jnp.array([7.0, 5.0, 6.0]), jnp.array([2, 0, 1]))[0]
    Array([5., 6., 7.], dtype=float32)
    """
    y = as_float(y)
    _check_order(y, order)
    return permute(y, jnp.argsort(jnp.asarray(order)), event_ndim)


class LU(NamedTuple):
    """A square matrix W = P L (U + diag(s e^d)), parameters of `lu_linear`.

    order [C], the permutation P by rows, and signs s [C] stay as they are; lower and upper [C, C], of which the strict
    triangles are read (L has a unit diagonal), and log_diagonal d [C] are unconstrained.
    """

    order: Array
    lower: Array
    upper: Array
    log_diagonal: Array
    signs: Array


def lu_from_matrix(matrix: Array) -> LU:
    r"""The factors of an invertible matrix, of a random rotation (`orthogonal.orthonormal`) to start from.

    $W = P\,L\,(U + \mathrm{diag}(s\odot e^d))$

    Shapes: `matrix` [C, C] -> `LU`.  Raises ValueError for another shape.  Source: Kingma & Dhariwal 2018, eq. 10.

    >>> lu_from_matrix(jnp.array([[0.0, 2.0], [-1.0, 0.0]])).signs
    Array([-1.,  1.], dtype=float32)
    """
    matrix = as_wide(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"an invertible map needs one square matrix, got shape {matrix.shape}")
    packed, _, rows = jax.lax.linalg.lu(matrix)  # matrix[rows] = L U
    diagonal = jnp.diagonal(packed)
    return LU(
        jnp.argsort(rows),
        jnp.tril(packed, -1),
        jnp.triu(packed, 1),
        jnp.log(jnp.abs(diagonal)),
        jnp.sign(diagonal),
    )


def _floats(z, lu):
    z, lower, upper, log_diagonal, signs = as_wide(z, lu.lower, lu.upper, lu.log_diagonal, lu.signs)
    size = z.shape[-1]
    if lower.shape != (size, size) or upper.shape != (size, size) or log_diagonal.shape != (size,):
        raise ValueError(f"this map is of vectors of {len(log_diagonal)} numbers, got shape {z.shape}")
    return z, LU(lu.order, lower, upper, log_diagonal, signs)


def _triangles(lu):
    identity = jnp.eye(len(lu.signs), dtype=lu.lower.dtype)
    return jnp.tril(lu.lower, -1) + identity, jnp.triu(lu.upper, 1) + identity * lu.signs * jnp.exp(
        lu.log_diagonal
    )


def _lu_log_det(z, lu, event_ndim):
    places = math.prod(z.shape[z.ndim - event_ndim : -1])
    return _no_volume(z, event_ndim) + places * jnp.sum(lu.log_diagonal)


def lu_linear(z: Array, lu: LU, event_ndim: int = 1) -> tuple[Array, Array]:
    r"""A linear map of the last axis: of vectors, or of the channels of every pixel, Glow's invertible 1x1 convolution.

    $y = P\,L\,(U + \mathrm{diag}(s\odot e^d))\,z,\quad \log|\det| = HW\sum_i d_i$

    Shapes: `z` [*batch, *event], event [C] or [H, W, C] (event_ndim 3); one `LU` for all (vmap for one an example) -> y alike,
    log_det [*batch].  Source: Kingma & Dhariwal 2018, eq. 9 to 11.

    >>> turn = lu_from_matrix(jnp.array([[0.0, 2.0], [-1.0, 0.0]]))
    >>> lu_linear(jnp.array([3.0, 4.0]), turn)[0]
    Array([ 8., -3.], dtype=float32)
    """
    z, lu = _floats(z, lu)
    lower, upper = _triangles(lu)
    matrix = jnp.matmul(lower, upper, precision="highest")[lu.order]
    return einsum("ij,...j->...i", matrix, z), _lu_log_det(z, lu, event_ndim)


def lu_linear_inverse(y: Array, lu: LU, event_ndim: int = 1) -> tuple[Array, Array]:
    r"""The inverse of `lu_linear` by two triangular systems, and the log-determinant of the inverse.

    $z = (U + \mathrm{diag}(s\odot e^d))^{-1}L^{-1}P^\top y,\quad \log|\det| = -HW\sum_i d_i$

    Shapes: as `lu_linear`.  Source: Kingma & Dhariwal 2018, section 3.2.

    >>> turn = lu_from_matrix(jnp.array([[0.0, 2.0], [-1.0, 0.0]]))
    >>> lu_linear_inverse(jnp.array([8.0, -3.0]), turn)[0]
    Array([3., 4.], dtype=float32)
    """
    y, lu = _floats(y, lu)
    rows = permute_inverse(y, lu.order)[0].reshape(-1, y.shape[-1])
    for triangle, below in zip(_triangles(lu), (True, False), strict=True):
        rows = jax.lax.linalg.triangular_solve(triangle, rows, left_side=False, lower=below, transpose_a=True)
    return rows.reshape(y.shape), -_lu_log_det(y, lu, event_ndim)
