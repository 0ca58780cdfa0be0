r"""Hyperbolic space as the Poincare ball, and the wrapped normal distribution on it.

Points x of the ball $c\|x\|^2 < 1$ of curvature -c, c >= 0, are arrays [*batch, D]; the metric is $\lambda_x^2\,dx^2$ with
$\lambda_x = 2/(1-c\|x\|^2)$.  Densities are with respect to the Riemannian volume $\lambda_x^D\,dx$.  A tangent vector at a base
point is given in the orthonormal frame that is carried there from the origin along the geodesic, so its plain length is the
length of the geodesic.

A float32 point can be at most about 14 / sqrt(c) from the origin (35 in float64): farther ones are drawn back to there.
"""

import jax.numpy as jnp

from dlvm_jax.functional import densities
from dlvm_jax.functional.numerics import as_wide, inner_product, log1mexp, norm, sum_event, unit_scale
from dlvm_jax.functional.spherical import to_sphere
from dlvm_jax.functional.types import Array, Key, Numeric, Shape

__all__ = [
    "distance",
    "end_distance",
    "exp_map",
    "log_map",
    "log_volume_change",
    "mobius_add",
    "tangent_log_prob",
    "wrapped_normal_log_prob",
    "wrapped_normal_sample",
]


def _square(x):
    return sum_event(jnp.square(x), 1)[..., None]


def _ratio(square, function, series):
    """function(sqrt(square)), with the first terms of its series in `square` near 0; so is its gradient."""
    small = square < 1e-2
    root = jnp.sqrt(jnp.where(small, 1.0, square))
    near = jnp.where(small, square, 0.0)
    return jnp.where(small, jnp.polyval(jnp.asarray(series[::-1], near.dtype), near), function(root))


# Taylor coefficients in the square; the next term is below 1e-15 where they are used.
_TANH_HALF = (1 / 2, -1 / 24, 1 / 240, -17 / 40320, 31 / 725760, -691 / 159667200)  # tanh(t / 2) / t
_ASINH = (1, -1 / 6, 3 / 40, -5 / 112, 35 / 1152, -63 / 2816, 231 / 13312)  # asinh(t) / t
_LOG_SINH = (0, 1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250)  # log(sinh(t) / t)


_FARTHEST = 1e3  # tanh is one long before


def _inside(x, curvature):
    """The point, drawn back from the boundary by a few roundings where it would lie on it or beyond."""
    limit = 1 - 8 * jnp.finfo(x.dtype).eps
    square = curvature * _square(x)
    outside = square > limit**2
    return x * jnp.where(outside, limit / jnp.sqrt(jnp.where(outside, square, 1.0)), 1.0)


def mobius_add(x: Array, y: Array, curvature: Numeric) -> Array:
    r"""Mobius addition on the Poincare ball.

    $x\oplus_c y = \frac{(1+2c\,x^\top y+c\|y\|^2)\,x+(1-c\|x\|^2)\,y}{1+2c\,x^\top y+c^2\|x\|^2\|y\|^2}$

    Computed with $x + y$ and the distances from the boundary, so that nothing cancels for y near -x.
    Shapes: `x`, `y` [*batch, D] in the ball -> [*batch, D].  Source: Ganea, Becigneul, Hofmann 2018, section 2.3.

    >>> mobius_add(jnp.array([0.5, 0.0]), jnp.array([-0.5, 0.0]), 1.0)
    Array([0., 0.], dtype=float32)
    """
    x, y, curvature = as_wide(x, y, curvature)
    near_x, near_y = 1 - curvature * _square(x), 1 - curvature * _square(y)
    total = x + y
    square = curvature * _square(total)
    return _inside((near_x * total + square * x) / (near_x * near_y + square), curvature)


def exp_map(base: Array, tangent: Array, curvature: Numeric) -> Array:
    r"""The end of the geodesic that leaves `base` along a tangent vector.

    $\exp_\mu(v) = \mu\oplus_c \tanh\big(\tfrac{\sqrt c\,\|v\|}2\big)\frac{v}{\sqrt c\,\|v\|}$

    Shapes: `base` [*batch, D] in the ball, `tangent` [*batch, D] in the frame carried from the origin -> [*batch, D].
    Source: Ganea, Becigneul, Hofmann 2018, section 2.4.

    >>> exp_map(jnp.zeros(2), jnp.array([jnp.log(3.0), 0.0]), 1.0)
    Array([0.5, 0. ], dtype=float32)
    """
    base, tangent, curvature = as_wide(base, tangent, curvature)
    reach = jnp.sqrt(curvature) * norm(tangent)[..., None]
    tangent = tangent / jnp.maximum(reach / _FARTHEST, 1.0)  # the end is the same, and squares are in range
    share = _ratio(curvature * _square(tangent), lambda t: jnp.tanh(t / 2) / t, _TANH_HALF)
    return mobius_add(base, _inside(share * tangent, curvature), curvature)


def _separation(x, y, curvature):
    """y - x, the distances a, b of both from the boundary (NaN outside), and sinh^2(sqrt(c) d / 2) = c |y - x|^2 / (a b)."""
    near_x, near_y = (1 - curvature * _square(point) for point in (x, y))
    near_x, near_y = (jnp.where(near > 0, near, jnp.nan) for near in (near_x, near_y))
    difference = y - x
    return difference, near_x, near_y, curvature * _square(difference) / (near_x * near_y)


def _asinh_ratio(square):
    return _ratio(square, lambda t: jnp.arcsinh(t) / t, _ASINH)


def log_map(base: Array, x: Array, curvature: Numeric) -> Array:
    r"""The tangent vector at `base` whose geodesic ends in x: the inverse of `exp_map`.

    $\log_\mu(x) = \frac{2}{\sqrt c}\,\mathrm{artanh}(\sqrt c\,\|w\|)\,\frac{w}{\|w\|},\quad w = (-\mu)\oplus_c x$

    Computed with $\mathrm{asinh}$ of the distance, as artanh is lost near the boundary.
    Shapes: `base`, `x` [*batch, D] in the ball -> [*batch, D], in the frame carried from the origin; NaN for a point outside.
    Source: Ganea, Becigneul, Hofmann 2018, section 2.4.

    >>> tangent = jnp.array([0.3, -2.0])
    >>> bool(jnp.allclose(log_map(jnp.zeros(2), exp_map(jnp.zeros(2), tangent, 1.0), 1.0), tangent))
    True
    """
    base, x, curvature = as_wide(base, x, curvature)
    difference, near_base, near_x, square = _separation(base, x, curvature)
    along = difference / near_x - curvature * _square(difference) / (near_base * near_x) * base
    return 2 * _asinh_ratio(square) / jnp.sqrt(1 + square) * along


def distance(x: Array, y: Array, curvature: Numeric) -> Array:
    r"""Geodesic distance.

    $d(x,y) = \frac{2}{\sqrt c}\,\mathrm{asinh}\sqrt{\frac{c\,\|x-y\|^2}{(1-c\|x\|^2)(1-c\|y\|^2)}}$

    Shapes: `x`, `y` [*batch, D] in the ball -> [*batch], NaN for a point outside.  The gradient at x = y is zero.
    Source: Nickel & Kiela 2017, eq. 1, at curvature -c.

    >>> bool(jnp.isclose(distance(jnp.zeros(2), jnp.array([0.5, 0.0]), 1.0), jnp.log(3.0)))
    True
    """
    x, y, curvature = as_wide(x, y, curvature)
    difference, near_x, near_y, square = _separation(x, y, curvature)
    scale = unit_scale(difference)
    flat = _square(difference / scale) / (near_x * near_y)
    apart = flat != 0
    root = scale * jnp.where(apart, jnp.sqrt(jnp.where(apart, flat, 1.0)), 0.0)
    return (2 * _asinh_ratio(square) * root)[..., 0]


def log_volume_change(tangent: Array, curvature: Numeric) -> Array:
    r"""Logarithm of the factor by which the exponential map stretches volume.

    $(D-1)\log\frac{\sinh(\sqrt c\,\|v\|)}{\sqrt c\,\|v\|}$

    Shapes: `tangent` [*batch, D] -> [*batch], nats; it does not depend on the base point.
    Source: Nagano et al. 2019, section 3.2.

    >>> log_volume_change(jnp.zeros(3), 1.0)
    Array(0., dtype=float32)
    """
    tangent, curvature = as_wide(tangent, curvature)
    square = curvature * _square(tangent)[..., 0]
    grown = _ratio(square, lambda t: t + log1mexp(2 * t) - jnp.log(2 * t), _LOG_SINH)
    return (tangent.shape[-1] - 1) * grown


def tangent_log_prob(tangent: Array, log_std: Numeric, curvature: Numeric) -> Array:
    r"""Log-density of the wrapped normal at the end of a tangent vector, however far that is.

    $\log\mathcal N(v\mid 0,\sigma^2) - \log|\det|$, of which `log_volume_change` is the second term

    Shapes: `tangent` v [*batch, D], `log_std` broadcasts -> [*batch], nats.  Source: Nagano et al. 2019, algorithm 1.

    >>> tangent, mean = jnp.array([0.3, -2.0]), jnp.array([0.1, 0.2])
    >>> value = wrapped_normal_log_prob(exp_map(mean, tangent, 1.0), mean, 0.0, 1.0)
    >>> bool(jnp.isclose(tangent_log_prob(tangent, 0.0, 1.0), value))
    True
    """
    return densities.normal_log_prob(tangent, 0.0, log_std) - log_volume_change(tangent, curvature)


def end_distance(base: Array, tangent: Array, curvature: Numeric) -> Array:
    r"""Distance from the origin of the end of a geodesic, also where the ball's points are beyond its number type.

    $\cosh\sqrt c\,r = \cosh a\cosh b + \sinh a\sinh b\cos\theta
        = \tfrac{1+\cos\theta}2\cosh(a+b) + \tfrac{1-\cos\theta}2\cosh(a-b)$

    In logarithms, with $\mathrm{arccosh}\,u\approx\log 2u$ of large u: for ends near the origin take `distance`.
    $a$, $b$ are $\sqrt c$ times the distance of the base and the length of the tangent, $\theta$ the angle between them.
    Shapes: `base`, `tangent` [*batch, D] -> [*batch]; right to rounding beyond 14 / sqrt(c).
    Source: Ratcliffe 2006, section 3.5 (the law of cosines).

    >>> float(end_distance(jnp.zeros(2), jnp.array([0.0, 100.0]), 1.0))
    100.0
    """
    base, tangent, curvature = as_wide(base, tangent, curvature)
    root = jnp.sqrt(curvature)
    start, length = root * distance(jnp.zeros_like(base), base, curvature), root * norm(tangent)
    cosine = inner_product(to_sphere(base), to_sphere(tangent))

    def log_part(side, sum_of_sides):  # log((1 + cos) / 2 cosh(a + b)), and the same with both signs changed
        size = jnp.abs(sum_of_sides)
        tiny = jnp.finfo(cosine.dtype).tiny
        return jnp.log(jnp.maximum(0.5 * (1 + side * cosine), tiny)) + size + jnp.log1p(jnp.exp(-2 * size))

    return jnp.logaddexp(log_part(1, start + length), log_part(-1, start - length)) / root


def wrapped_normal_log_prob(x: Array, mean: Array, log_std: Numeric, curvature: Numeric) -> Array:
    r"""Log-density of the wrapped normal distribution: a Gaussian tangent vector at `mean`, followed along its geodesic.

    $\log p(x) = \log\mathcal N(v\mid 0,\sigma^2) - (D-1)\log\frac{\sinh(\sqrt c\,\|v\|)}{\sqrt c\,\|v\|},
        \quad v = \log_\mu(x)$

    With respect to the Riemannian volume.  Shapes: `x`, `mean` [*batch, D] in the ball, `log_std` [*batch, D], all broadcast
    -> [*batch], nats.  Source: Nagano et al. 2019, section 3.2; Mathieu et al. 2019, section 3.

    >>> bool(jnp.isclose(wrapped_normal_log_prob(jnp.zeros(2), jnp.zeros(2), 0.0, 1.0), -jnp.log(2 * jnp.pi)))
    True
    """
    tangent = log_map(mean, x, curvature)
    return tangent_log_prob(tangent, log_std, curvature)


def wrapped_normal_sample(
    key: Key, mean: Array, log_std: Numeric, curvature: Numeric, shape: Shape = ()
) -> Array:
    r"""Reparameterised draw from the wrapped normal distribution.

    $x = \exp_\mu(\sigma\odot\epsilon),\ \epsilon\sim\mathcal N(0, I)$

    Shapes: `mean` [*batch, D] in the ball, `log_std` [*batch, D], broadcast -> [*shape, *batch, D].
    Source: Nagano et al. 2019, algorithm 1.

    >>> import jax
    >>> wrapped_normal_sample(jax.random.key(0), jnp.zeros(2), 0.0, 1.0, (5,)).shape
    (5, 2)
    """
    mean, log_std = as_wide(mean, log_std)
    return exp_map(mean, densities.normal_sample(key, jnp.zeros_like(mean), log_std, shape), curvature)
