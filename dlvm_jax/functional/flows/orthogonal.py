"""Orthogonal maps: volume is preserved, so every log-determinant is zero."""

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide, inner_product, unit_scale
from dlvm_jax.functional.types import Array

__all__ = ["householder", "householder_product", "householder_product_inverse", "orthonormal"]


def householder(z: Array, v: Array) -> tuple[Array, Array]:
    r"""Householder reflection in the hyperplane normal to v; its own inverse.

    $y = z - 2\,\frac{v\,v^\top z}{\|v\|^2},\quad \log|\det\tfrac{\partial y}{\partial z}| = 0$

    Shapes: `z`, `v` broadcast to [*batch, D] -> y [*batch, D], log_det [*batch].  v = 0 gives y = z.
    Source: Tomczak & Welling 2016, section 3 (the Householder transformation).

    >>> householder(jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0]))[0]
    Array([-1.,  2.], dtype=float32)
    """
    z, v = as_wide(z, v)
    v = v / unit_scale(v)
    square = inner_product(v, v)
    along = inner_product(v, z) / jnp.where(square == 0, 1.0, square)
    return z - 2 * along[..., None] * v, jnp.zeros_like(along)


def _reflections(z, v, reverse):
    z, v = as_wide(z, v)
    if v.ndim < 2 or v.shape[-1] != z.shape[-1]:
        raise ValueError(f"z [*batch, D] needs mirrors [*batch, n, D], got shapes {z.shape} and {v.shape}")
    z = jnp.broadcast_to(z, jnp.broadcast_shapes(z.shape, v.shape[:-2] + v.shape[-1:]))
    z, log_det = jax.lax.scan(householder, z, jnp.moveaxis(v, -2, 0), reverse=reverse)
    return z, jnp.sum(log_det, axis=0)


def householder_product(z: Array, v: Array) -> tuple[Array, Array]:
    r"""An orthogonal map as a product of Householder reflections; D of them reach every orthogonal matrix.

    $y = H_1 H_2\cdots H_n z,\quad H_k = I - 2\,v_k v_k^\top/\|v_k\|^2$

    Shapes: `z` [*batch, D], `v` [*batch, n, D] -> y [*batch, D], log_det [*batch] (zero); O(nD), no matrix is formed.  Raises
    ValueError for others.
    Source: Tomczak & Welling 2016, section 3; van den Berg et al. 2018, section 3 (H-SNF).

    >>> householder_product(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [1.0, -1.0]]))[0]
    Array([-2.,  1.], dtype=float32)
    """
    return _reflections(z, v, True)


def householder_product_inverse(y: Array, v: Array) -> tuple[Array, Array]:
    r"""The inverse of a product of Householder reflections: the same reflections in the opposite order.

    $z = H_n\cdots H_2 H_1 y$

    Shapes: `y` [*batch, D], `v` [*batch, n, D] -> z [*batch, D], log_det [*batch] (zero).  Raises ValueError for others.
    Source: Tomczak & Welling 2016, section 3.

    >>> householder_product_inverse(jnp.array([-2.0, 1.0]), jnp.array([[1.0, 0.0], [1.0, -1.0]]))[0]
    Array([1., 2.], dtype=float32)
    """
    return _reflections(y, v, False)


def orthonormal(a: Array) -> Array:
    r"""Orthonormal columns with the same span as those of a matrix: Gram-Schmidt, computed by QR.

    $Q = A R^{-1},\quad Q^\top Q = I,\ R \text{ upper triangular with } R_{ii} > 0$

    The positive diagonal makes Q a smooth function of A; the signs that LAPACK leaves would jump.
    Shapes: `a` [*batch, D, M] of full rank, M <= D -> [*batch, D, M].  Raises ValueError for M > D.
    Source: Golub & Van Loan 2013, theorem 5.2.3.

    >>> bool(jnp.allclose(orthonormal(jnp.array([[3.0], [4.0]])), jnp.array([[0.6], [0.8]])))
    True
    """
    a = as_wide(a)
    if a.ndim < 2 or a.shape[-1] > a.shape[-2]:
        raise ValueError(
            f"at most D columns can be orthonormal, got a matrix of shape {a.shape[-2:]}; use M <= D"
        )
    q, r = jnp.linalg.qr(a)
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    return q * jnp.where(diagonal < 0, -1.0, 1.0).astype(q.dtype)[..., None, :]
