"""From unconstrained values to parameters under which a flow is invertible.

Zero gives the identity map.  Every constraint keeps the slope that could vanish above `MIN_SLOPE`, so that an inverse magnifies
rounding errors by at most 1 / MIN_SLOPE and float32 keeps its digits.
"""

import math

import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide, inner_product, norm, unit_scale
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["MIN_SLOPE", "moebius_centre", "planar_u_hat", "positive", "radial_beta_hat", "sylvester_triangle"]

MIN_SLOPE = 0.01
_REST = math.exp(MIN_SLOPE - 1)  # e^m at minus infinity


def _above_minus_one(x):
    """m(x) = log(c + (1 - c) e^x), c = e^(MIN_SLOPE - 1): a softplus moved to m(0) = 0 and m > MIN_SLOPE - 1."""
    small = x < 1
    near, far = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
    near = jnp.log1p((1 - _REST) * jnp.expm1(near))
    return jnp.where(small, near, far + jnp.log(1 - _REST + _REST * jnp.exp(-far)))


def planar_u_hat(w: Array, u: Array) -> Array:
    r"""The direction nearest to u along w under which a planar flow is invertible.

    $\hat u = u + [m(w^\top u) - w^\top u]\,\frac{w}{\|w\|^2},\quad m(x) = \log(c + (1-c)e^x),\ c = e^{\delta-1}$

    so that $w^\top\hat u = m(w^\top u) > -1 + \delta$, with $\delta$ = `MIN_SLOPE`.  The paper's $m(x) = -1 + \log(1+e^x)$ is
    the same curve moved: with it u = 0 would not give the identity, and $\hat u$ would grow without bound as w -> 0.
    Shapes: `w`, `u` broadcast to [*batch, D] -> [*batch, D].  Source: Rezende & Mohamed 2015, appendix A.1.

    >>> planar_u_hat(jnp.array([1.0, 0.0]), jnp.array([0.0, 5.0]))
    Array([0., 5.], dtype=float32)
    """
    w, u = as_wide(w, u)
    dot, scale = inner_product(w, u), unit_scale(w)
    w = w / scale  # so that its square is in range
    square = inner_product(w, w)
    length = (_above_minus_one(dot) - dot) / jnp.where(square == 0, 1.0, square)
    return u + length[..., None] * w / scale


def radial_beta_hat(alpha: Numeric, beta: Array) -> Array:
    r"""The strength under which a radial flow is invertible.

    $\hat\beta = \alpha\,m(\beta) > -\alpha$ with the $m$ of `planar_u_hat`

    The paper's $\hat\beta = -\alpha + \log(1+e^\beta)$, with the softplus in units of alpha and moved so that beta = 0 gives
    the identity.
    Shapes: `alpha` > 0, `beta` broadcast -> same.  Source: Rezende & Mohamed 2015, appendix A.2.

    >>> radial_beta_hat(2.0, jnp.array([0.0]))
    Array([0.], dtype=float32)
    """
    alpha, beta = as_wide(alpha, beta)
    return alpha * _above_minus_one(beta)


def sylvester_triangle(a: Array) -> Array:
    r"""An upper-triangular matrix whose diagonal lies so far inside (-1, 1) that any two of them make an invertible flow.

    $r_{ij} = a_{ij}\ (i<j),\quad r_{ii} = \sqrt{1-\delta}\,\tanh a_{ii},\quad\text{so } r_{ii}\tilde r_{ii} > -1 + \delta$

    Shapes: `a` [*batch, M, M], of which the upper triangle is read -> [*batch, M, M].  Raises ValueError for others.
    Source: van den Berg et al. 2018, theorem 2 (with tanh diagonals; the factor keeps them from rounding to 1).

    >>> sylvester_triangle(jnp.zeros((2, 2)).at[0, 1].set(3.0))
    Array([[0., 3.],
           [0., 0.]], dtype=float32)
    """
    a = as_wide(a)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"a triangle is of square matrices [*batch, M, M], got shape {a.shape}")
    identity = jnp.eye(a.shape[-1], dtype=a.dtype)
    return jnp.triu(a, 1) + math.sqrt(1 - MIN_SLOPE) * jnp.tanh(a * identity)


def positive(a: Array) -> Array:
    r"""A number that stays above zero, for a slope; zero gives one.

    $\alpha = 1 + m(a) > \delta$ with the $m$ and the $\delta$ of `planar_u_hat`

    Shapes: any -> same.  Source: Dugas et al. 2001, "Incorporating second-order functional knowledge", eq. 3 (softplus).

    >>> positive(jnp.array([0.0]))
    Array([1.], dtype=float32)
    """
    return 1 + _above_minus_one(as_wide(a))


def moebius_centre(w: Array) -> Array:
    r"""A point inside the unit circle, so far that no slope of a Moebius transformation is below 1/200; zero gives zero.

    $\hat w = \frac{0.99\,w}{1+\|w\|}$

    Shapes: [*batch, 2] -> same.  Source: Rezende et al. 2020, section 2.1.1 (the condition |w| < 1).

    >>> moebius_centre(jnp.array([0.0, 1.0]))
    Array([0.   , 0.495], dtype=float32)
    """
    w = as_wide(w)
    return 0.99 * w / (1 + norm(w)[..., None])
