r"""Flows on the sphere: recursive ones, in cylindrical coordinates, and exponential-map ones, along the gradient of a potential.

Points of $S^D$ are unit vectors x [*batch, D + 1]; log-determinants are those of the area of the sphere, so that a flow from
`spherical.uniform_sphere_log_prob` needs no other term.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide, einsum, inner_product, unit_scale
from dlvm_jax.functional.types import Array

__all__ = [
    "exponential_map",
    "exponential_map_inverse",
    "from_cylinder",
    "on_circle",
    "polynomial_gradient",
    "radial_gradient",
    "recursive_sphere",
    "recursive_sphere_inverse",
    "to_cylinder",
]


def _log_stretch(square, dim):
    """Area of the sphere over area of the cylinder; a point on the axis gets the factor of its float32 neighbours."""
    return (dim / 2 - 1) * jnp.log(jnp.maximum(square, jnp.finfo(square.dtype).tiny))


def to_cylinder(x: Array) -> tuple[tuple[Array, Array], Array]:
    r"""Cylindrical coordinates of the sphere: the height on the last axis, and the point of a lower sphere beside it.

    $h = x_{D+1},\ s = \frac{x_{1:D}}{\sqrt{1-h^2}},\quad \log|\det| = -(\tfrac D2-1)\log(1-h^2)$

    On $S^2$ the log-determinant is zero (Archimedes).  At the poles s is the first unit vector, with a zero gradient.
    Shapes: unit vectors `x` [*batch, D + 1] -> ((h [*batch] in [-1, 1], unit vectors s [*batch, D]), log_det [*batch]).
    Raises ValueError for D below 2: turn the circle by its angle, `on_circle`.  Source: Rezende et al. 2020, section 2.3.

    >>> (height, side), log_det = to_cylinder(jnp.array([0.0, 0.6, 0.8]))
    >>> round(float(height), 6), side.tolist(), abs(float(log_det))
    (0.8, [0.0, 1.0], 0.0)
    """
    x = as_wide(x)
    if x.shape[-1] < 3:
        raise ValueError(f"a cylinder needs unit vectors of at least 3 coordinates, got shape {x.shape}")
    height, side = x[..., -1], x[..., :-1]
    square = inner_product(side, side)
    pole = jnp.all(side == 0, axis=-1)
    first = jnp.eye(1, side.shape[-1], dtype=side.dtype)[0]
    side = jnp.where(pole[..., None], first, side)
    side = side / unit_scale(side)
    side = side / jnp.sqrt(inner_product(side, side))[..., None]
    return (height, side), -_log_stretch(square, side.shape[-1])


def from_cylinder(height: Array, side: Array) -> tuple[Array, Array]:
    r"""The point of the sphere at given cylindrical coordinates.

    $x = (\sqrt{1-h^2}\,s,\ h),\quad \log|\det| = (\tfrac D2-1)\log(1-h^2)$

    Shapes: `height` [*batch] in [-1, 1], unit vectors `side` [*batch, D] -> x [*batch, D + 1], log_det [*batch].
    Source: Rezende et al. 2020, section 2.3.

    >>> from_cylinder(jnp.array(1.0), jnp.array([0.0, 1.0]))[0]
    Array([0., 0., 1.], dtype=float32)
    """
    height, side = as_wide(height, side)
    square = (1 - height) * (1 + height)
    inside = square > 0
    radius = jnp.where(inside, jnp.sqrt(jnp.where(inside, square, 1.0)), 0.0)[..., None]
    x = jnp.concatenate([radius * side, jnp.broadcast_to(height[..., None], (*side.shape[:-1], 1))], -1)
    return x, _log_stretch(square, side.shape[-1])


def on_circle(
    angle_map: Callable[[Array, Array], tuple[Array, Array]],
) -> Callable[[Array, Array], tuple[Array, Array]]:
    r"""A map of angles as a map of the circle's unit vectors, for the last step of a recursive flow.

    $(\cos\theta,\sin\theta) \mapsto (\cos g(\theta;h),\ \sin g(\theta;h))$

    Shapes: `angle_map(theta, h)` [*batch], [*batch] -> (angle, log_det), each [*batch] -> a function of (s [*batch, 2], h)
    that returns (unit vectors [*batch, 2], log_det [*batch]).  Source: Rezende et al. 2020, section 2.3.

    >>> quarter = on_circle(lambda theta, h: (theta + jnp.pi / 2, 0 * theta))
    >>> quarter(jnp.array([1.0, 0.0]), 0.0)[0].round(6).tolist()
    [-0.0, 1.0]
    """

    def side_map(side, height):
        side = as_wide(side)
        angle, log_det = angle_map(jnp.arctan2(side[..., 1], side[..., 0]), height)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1), log_det

    return side_map


def recursive_sphere(
    x: Array,
    height_map: Callable[[Array], tuple[Array, Array]],
    side_map: Callable[[Array, Array], tuple[Array, Array]],
) -> tuple[Array, Array]:
    r"""The recursive flow: the height moves by a map of the interval, then the side, given the height before the move.

    $h' = f(h),\ s' = g(s;h),\quad \log|\det| = \log f'(h) + \log|\det\tfrac{\partial s'}{\partial s}|
        + (\tfrac D2-1)\log\frac{1-h'^2}{1-h^2}$

    f must keep [-1, 1].  At a pole all s are one point, so there the flow is continuous whatever g is, and its density only where
    g is a rotation.
    Shapes: unit vectors `x` [*batch, D + 1]; `height_map(h)` -> (h', log_det); `side_map(s, h)` -> (s', log_det), `on_circle`
    of a map of angles for D = 2, itself a recursive flow beyond -> y [*batch, D + 1], log_det [*batch].  Raises ValueError for D
    below 2.  Source: Rezende et al. 2020, section 2.3.

    >>> flip = lambda h: (-h, 0 * h)
    >>> y, _ = recursive_sphere(jnp.array([0.0, 0.6, 0.8]), flip, lambda s, h: (s, 0 * h))
    >>> bool(jnp.allclose(y, jnp.array([0.0, 0.6, -0.8])))
    True
    """
    (height, side), log_det = to_cylinder(x)
    new_height, height_log_det = height_map(height)
    new_side, side_log_det = side_map(side, height)
    y, log_det_back = from_cylinder(new_height, new_side)
    return y, log_det + height_log_det + side_log_det + log_det_back


def recursive_sphere_inverse(
    y: Array,
    height_inverse: Callable[[Array], tuple[Array, Array]],
    side_inverse: Callable[[Array, Array], tuple[Array, Array]],
) -> tuple[Array, Array]:
    r"""The inverse of the recursive flow: first the height, then the side given it.

    $h = f^{-1}(h'),\ s = g^{-1}(s';h)$

    Shapes: unit vectors `y` [*batch, D + 1]; `height_inverse(h')` -> (h, log_det), `side_inverse(s', h)` -> (s, log_det), the
    inverses of the maps of `recursive_sphere` -> x [*batch, D + 1], log_det [*batch].  Source: Rezende et al. 2020, section 2.3.

    >>> flip = lambda h: (-h, 0 * h)
    >>> x, _ = recursive_sphere_inverse(jnp.array([0.0, 0.6, -0.8]), flip, lambda s, h: (s, 0 * h))
    >>> bool(jnp.allclose(x, jnp.array([0.0, 0.6, 0.8])))
    True
    """
    (new_height, new_side), log_det = to_cylinder(y)
    height, height_log_det = height_inverse(new_height)
    side, side_log_det = side_inverse(new_side, height)
    x, log_det_back = from_cylinder(height, side)
    return x, log_det + height_log_det + side_log_det + log_det_back


def radial_gradient(x: Array, centres: Array, alpha: Array, beta: Array) -> Array:
    r"""Gradient, in the space around the sphere, of a sum of radial potentials.

    $\nabla\phi(x) = \sum_k\alpha_k e^{\beta_k(\mu_k^\top x-1)}\mu_k,\quad
        \phi(x) = \sum_k\tfrac{\alpha_k}{\beta_k}e^{\beta_k(\mu_k^\top x-1)}$

    The exponential map along it is invertible for $\alpha_k\ge0$, $\sum_k\alpha_k<1$, $\beta_k>0$ (at a sum of 1 it may have
    points of slope zero).  Shapes: `x` [*batch, D + 1], unit vectors `centres` [*batch, K, D + 1], `alpha`, `beta` [*batch, K]
    -> [*batch, D + 1].  Source: Rezende et al. 2020, section 2.3 (EMSRE).

    >>> x = jnp.array([1.0, 0.0, 0.0])
    >>> radial_gradient(x, x[None], jnp.array([0.5]), jnp.array([3.0]))
    Array([0.5, 0. , 0. ], dtype=float32)
    """
    x, centres, alpha, beta = as_wide(x, centres, alpha, beta)
    nearness = inner_product(centres, x[..., None, :]) - 1
    weights = alpha * jnp.exp(beta * nearness)
    return einsum("...k,...kd->...d", weights, centres)


def polynomial_gradient(x: Array, mu: Array, a: Array) -> Array:
    r"""Gradient, in the space around the sphere, of a quadratic potential.

    $\nabla\phi(x) = \mu + (A+A^\top)x,\quad \phi(x) = \mu^\top x + x^\top Ax$

    The exponential map along it is invertible for $\|\mu\|_2 + 2(\lambda_{max}-\lambda_{min}) < 1$, the extreme eigenvalues of
    the symmetric part of A; a bound of 1 on the sum of all absolute entries of mu and A is not enough, see $\phi(x) = x_1^2$.
    Shapes: `x`, `mu` [*batch, D + 1], `a` [*batch, D + 1, D + 1] -> [*batch, D + 1].
    Source: Rezende et al. 2020, section 2.3 (EMP); the condition by the second derivative along geodesics.

    >>> polynomial_gradient(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), jnp.eye(2))
    Array([2., 1.], dtype=float32)
    """
    x, mu, a = as_wide(x, mu, a)
    return mu + inner_product(a + jnp.swapaxes(a, -1, -2), x[..., None, :])


def _cos_sinc(square):
    """cos r and sin(r) / r as functions of r^2, by their series near 0, where the root has no derivative."""
    small = square < 1e-4  # the next terms are below 1e-20
    root, near = jnp.sqrt(jnp.where(small, 1.0, square)), jnp.where(small, square, 0.0)
    cos = 1 - near / 2 * (1 - near / 12 * (1 - near / 30))
    sinc = 1 - near / 6 * (1 - near / 20 * (1 - near / 42))
    return jnp.where(small, cos, jnp.cos(root)), jnp.where(small, sinc, jnp.sin(root) / root)


def _moved(gradient, x):
    """The exponential map, extended to all x but 0 as a homogeneous function of degree one.

    Its Jacobian takes x to y, both normal to the sphere, so its determinant is that of the map between the tangent planes.
    """
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    x = x / length
    slope = gradient(x)
    tangent = slope - inner_product(x, slope)[..., None] * x
    cos, sinc = _cos_sinc(inner_product(tangent, tangent))
    return length * (cos[..., None] * x + sinc[..., None] * tangent)


def _columns(push, x):
    """The matrices [*batch, n, n] of a linear map that treats vectors like x [*batch, n] row by row."""
    basis = jnp.eye(x.shape[-1], dtype=x.dtype)
    return jax.vmap(lambda e: push(jnp.broadcast_to(e, x.shape)), out_axes=-1)(basis)


def _divide(matrix, right):
    return jnp.linalg.solve(matrix, right[..., None])[..., 0]


def exponential_map(x: Array, gradient: Callable[[Array], Array]) -> tuple[Array, Array]:
    r"""Move each point of the sphere along the geodesic that starts in the direction of a potential's gradient.

    $y = \cos\|v\|\,x + \frac{\sin\|v\|}{\|v\|}\,v,\ v = (I-xx^\top)\nabla\phi(x),\quad
        \log|\det| = \tfrac12\log\det(E^\top J^\top J E)$, where the columns of E are an orthonormal basis of x's tangent plane

    Shapes: unit vectors `x` [*batch, D + 1]; `gradient(x)` [*batch, D + 1], row by row, such as `radial_gradient` -> y
    [*batch, D + 1], log_det [*batch]; D + 1 directional derivatives.  Source: Rezende et al. 2020, section 2.3.

    >>> exponential_map(jnp.array([0.0, 0.0, 1.0]), lambda x: jnp.array([jnp.pi / 2, 0.0, 0.0]))[0].round(6)
    Array([ 1.,  0., -0.], dtype=float32)
    """
    x = as_wide(x)
    y, push = jax.linearize(lambda x: _moved(gradient, x), x)
    return y, jnp.log(jnp.abs(jnp.linalg.det(_columns(push, x))))


# Full steps converge quadratically; the shorter ones are for the start, where a full one may overshoot.
_STEPS, _SHARES = 20, (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 0)


def exponential_map_inverse(y: Array, gradient: Callable[[Array], Array]) -> tuple[Array, Array]:
    r"""The inverse of the exponential map by Newton's method with line search, and the log-determinant of the inverse.

    $x:\ \exp_x(v(x)) = y,\qquad dx = J^{-1}(dy - \partial_\theta y\,d\theta)$

    Derivatives follow the implicit function theorem, for y and for whatever `gradient` closes over; the iterations, a fixed
    number, are not differentiated.  For an invertible map every start leads to the root: the line search follows the
    pre-image of the great circle to y.
    Shapes: unit vectors `y` [*batch, D + 1], the full batch; `gradient` as in `exponential_map` -> x [*batch, D + 1], log_det
    [*batch], minus that of `exponential_map` at x.
    Source: Krantz & Parks 2013, theorem 3.3.1; Deuflhard 2011, section 3.1 (line search).

    >>> pull = lambda x: jnp.array([0.5, 0.0, 0.0])
    >>> y, log_det = exponential_map(jnp.array([0.0, 0.0, 1.0]), pull)
    >>> x, log_det_back = exponential_map_inverse(y, pull)
    >>> bool(jnp.allclose(x, jnp.array([0.0, 0.0, 1.0]), atol=1e-6)), bool(jnp.isclose(log_det, -log_det_back))
    (True, True)
    """
    y = as_wide(y)

    def solve(residual, start):
        def newton(_, x):
            value, push = jax.linearize(residual, x)
            step = _divide(_columns(push, x), value)
            step = step / jnp.maximum(1.0, jnp.linalg.norm(step, axis=-1, keepdims=True))  # a radian at most
            trials = x - jnp.asarray(_SHARES, x.dtype).reshape(-1, *[1] * x.ndim) * step
            trials = trials / jnp.linalg.norm(trials, axis=-1, keepdims=True)
            size = jnp.sum(jnp.square(jax.vmap(residual)(trials)), axis=-1)
            best = jnp.argmin(jnp.where(jnp.isnan(size), jnp.inf, size), axis=0)
            return jnp.take_along_axis(trials, best[None, ..., None], axis=0)[0]

        return jax.lax.fori_loop(0, _STEPS, newton, start)

    x = jax.lax.custom_root(
        lambda x: _moved(gradient, x) - y, y, solve, lambda push, right: _divide(_columns(push, right), right)
    )
    return x, -exponential_map(x, gradient)[1]
