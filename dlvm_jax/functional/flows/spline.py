"""Monotone rational-quadratic splines: bijections of an interval, elementwise, and the identity outside it.

In every bin the curve is a quotient of two parabolas that has given values and slopes at both ends.  Value, slope and inverse
are written as sums of terms that are not negative, so nothing cancels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array

__all__ = [
    "Knots",
    "circular_slopes",
    "linear_tails",
    "rational_quadratic",
    "rational_quadratic_inverse",
    "spline_knots",
]

MIN_BIN = 1e-3  # of the interval
MIN_KNOT_SLOPE = 1e-3


class Knots(NamedTuple):
    """The points (x, y) that a spline passes and its slopes there, each [*batch, K + 1]."""

    x: Array
    y: Array
    slopes: Array


def _bins_first(a):
    """The last axis in front: what runs over the bins is then done for many points at a time, twice as fast on a CPU."""
    return jnp.moveaxis(a, -1, 0)


def _edges(free, low, high):
    share = (jax.nn.softmax(_bins_first(free), axis=0) + MIN_BIN) / (1 + MIN_BIN * free.shape[-1])
    inner = low + (high - low) * jnp.cumsum(share[:-1], axis=0)
    ends = jnp.ones_like(share[:1])
    return jnp.moveaxis(jnp.concatenate([low * ends, inner, high * ends]), 0, -1)  # the ends are exact


def spline_knots(widths: Array, heights: Array, slopes: Array, low: float, high: float) -> Knots:
    r"""Knots of an increasing spline of an interval onto itself, from unconstrained values; zeros give the identity.

    $x_k = \text{low} + (\text{high}-\text{low})\sum_{j<k}\frac{\mathrm{softmax}(w)_j+\epsilon}{1+K\epsilon},\quad
        \delta_k = \epsilon + (1-\epsilon)\,\big(e^{\min(s_k,0)} + \max(s_k,0)\big)$

    and y_k likewise from the heights; the floor $\epsilon = 10^{-3}$ keeps bins and slopes away from zero.  The slope is
    the softplus of the paper but for its bend: one at zero, and its exponential is all that it costs.
    Shapes: `widths`, `heights` [*batch, K], `slopes` [*batch, K + 1], Python floats `low` < `high` -> `Knots`.
    Raises ValueError when the numbers of bins and slopes do not agree.  `linear_tails` and `circular_slopes` make slopes that
    are continuous at the ends.  Source: Durkan et al. 2019, section 3.1.

    >>> spline_knots(jnp.zeros(2), jnp.zeros(2), jnp.zeros(3), -1.0, 1.0).x
    Array([-1.,  0.,  1.], dtype=float32)
    """
    widths, heights, slopes = as_wide(widths, heights, slopes)
    bins = widths.shape[-1]
    if heights.shape[-1] != bins or slopes.shape[-1] != bins + 1:
        raise ValueError(
            f"a spline of K bins needs K widths, K heights, K + 1 slopes, got {bins}, {heights.shape[-1]}, "
            f"{slopes.shape[-1]}; pad the slopes by linear_tails (from K - 1) or circular_slopes (from K)"
        )
    bent = jnp.exp(jnp.minimum(slopes, 0.0)) + jnp.maximum(slopes, 0.0)
    positive = MIN_KNOT_SLOPE + (1 - MIN_KNOT_SLOPE) * bent
    return Knots(_edges(widths, low, high), _edges(heights, low, high), positive)


def linear_tails(slopes: Array) -> Array:
    r"""Unconstrained slopes of a spline that meets the identity outside its interval smoothly.

    $(s_1,\ldots,s_{K-1}) \mapsto (0, s_1, \ldots, s_{K-1}, 0)$

    Shapes: [*batch, K - 1] -> [*batch, K + 1]; zero is slope one.  Source: Durkan et al. 2019, section 3.1 (linear tails).

    >>> linear_tails(jnp.array([5.0]))
    Array([0., 5., 0.], dtype=float32)
    """
    slopes = as_wide(slopes)
    return jnp.pad(slopes, [(0, 0)] * (slopes.ndim - 1) + [(1, 1)])


def circular_slopes(slopes: Array) -> Array:
    r"""Unconstrained slopes of a spline of the circle, [-pi, pi]: the last is the first, so the density has no seam.

    $(s_0,\ldots,s_{K-1}) \mapsto (s_0, \ldots, s_{K-1}, s_0)$

    Shapes: [*batch, K] -> [*batch, K + 1].  Source: Rezende et al. 2020, section 2.1.2.

    >>> circular_slopes(jnp.array([5.0, 6.0]))
    Array([5., 6., 5.], dtype=float32)
    """
    slopes = as_wide(slopes)
    return jnp.concatenate([slopes, slopes[..., :1]], axis=-1)


def _into(v, edges):
    """Whether v lies in the interval, and v where it does, else an end: outside, the curve would have NaN gradients."""
    low, high = edges[..., 0], edges[..., -1]
    inside = (v >= low) & (v <= high)
    return inside, jnp.where(inside, v, low)


def _not_beyond(v, edges):
    """Take back what rounding carried over the ends, without touching the gradient."""
    return v + jax.lax.stop_gradient(jnp.clip(v, edges[..., 0], edges[..., -1]) - v)


def _bin_of(v, edges, knots):
    """Of the bin around v: x_k, width, y_k, slope s of the chord, both end slopes."""
    shape = jnp.broadcast_shapes(v.shape, edges.shape[:-1])
    inner = _bins_first(jnp.broadcast_to(edges, (*shape, edges.shape[-1])))[1:-1]
    here = jnp.sum(v >= inner, axis=0, keepdims=True)

    def ends(values):
        values = _bins_first(jnp.broadcast_to(values, (*shape, values.shape[-1])))
        return (
            jnp.take_along_axis(values, at, axis=0, mode="promise_in_bounds")[0] for at in (here, here + 1)
        )

    (x0, x1), (y0, y1), (d0, d1) = (ends(values) for values in knots)
    return x0, x1 - x0, y0, y1 - y0, d0, d1


def _curve(xi, s, d0, d1):
    """Share of the bin's height at the share xi of its width, and the log-slope."""
    rest = 1 - xi
    both = xi * rest
    below = s * (1 - 2 * both) + (d0 + d1) * both
    slope = d1 * jnp.square(xi) + 2 * s * both + d0 * jnp.square(rest)
    return xi * (s * xi + d0 * rest) / below, jnp.log(slope * jnp.square(s / below))


def rational_quadratic(z: Array, knots: Knots) -> tuple[Array, Array]:
    r"""The rational-quadratic spline (neural spline flows) and its log-derivative.

    $y = y_k + \frac{(y_{k+1}-y_k)\,[s\,\xi^2 + \delta_k\,\xi(1-\xi)]}{s + (\delta_{k+1}+\delta_k-2s)\,\xi(1-\xi)},\quad
        \xi = \frac{z-x_k}{x_{k+1}-x_k},\ s = \frac{y_{k+1}-y_k}{x_{k+1}-x_k}$

    for z in bin k; outside the knots y = z.
    Shapes: `z` [*batch], `knots` as of `spline_knots` -> y [*batch], log_det [*batch], elementwise.
    Source: Durkan et al. 2019, eq. 4 and 5.

    >>> knots = spline_knots(jnp.zeros(2), jnp.zeros(2), jnp.full(3, 9.0), -1.0, 1.0)
    >>> rational_quadratic(jnp.array([-1.0, 0.0, 1.0, 7.0]), knots)[0]
    Array([-1.,  0.,  1.,  7.], dtype=float32)
    """
    z, *parts = as_wide(z, *knots)
    knots = Knots(*parts)
    inside, at = _into(z, knots.x)
    x0, width, y0, height, d0, d1 = _bin_of(at, knots.x, knots)
    share, log_det = _curve((at - x0) / width, height / width, d0, d1)
    y = _not_beyond(y0 + height * share, knots.y)
    return jnp.where(inside, y, z), jnp.where(inside, log_det, 0.0)


def rational_quadratic_inverse(y: Array, knots: Knots) -> tuple[Array, Array]:
    r"""The inverse of the rational-quadratic spline, in closed form, and its log-derivative.

    $z = x_k + (x_{k+1}-x_k)\,\frac{2s\,\eta}{2s\,\eta + u + r},\quad
        u = \delta_k(1-\eta) - \delta_{k+1}\eta,\ r = \sqrt{u^2 + 4s^2\eta(1-\eta)},\ \eta = \frac{y-y_k}{y_{k+1}-y_k}$

    the root of the paper's quadratic equation with its discriminant as a sum of squares; for u < 0, where u + r cancels, the
    same number is $\frac{r-u}{r-u+2s(1-\eta)}$.
    Shapes: as in `rational_quadratic` -> z [*batch], log_det [*batch], minus that of `rational_quadratic` at z.
    Source: Durkan et al. 2019, eq. 6 to 8.

    >>> knots = spline_knots(jnp.array([0.0, 1.0]), jnp.zeros(2), jnp.ones(3), -1.0, 1.0)
    >>> z, _ = rational_quadratic_inverse(rational_quadratic(jnp.array([0.3]), knots)[0], knots)
    >>> bool(jnp.allclose(z, 0.3, atol=1e-6))
    True
    """
    y, *parts = as_wide(y, *knots)
    knots = Knots(*parts)
    inside, at = _into(y, knots.y)
    x0, width, y0, height, d0, d1 = _bin_of(at, knots.y, knots)
    eta, s = (at - y0) / height, height / width
    rest = 1 - eta
    u = d0 * rest - d1 * eta
    p = jnp.abs(u) + jnp.sqrt(jnp.square(u) + 4 * jnp.square(s) * eta * rest)
    xi = jnp.where(u >= 0, 2 * s * eta / (2 * s * eta + p), p / (p + 2 * s * rest))
    z = _not_beyond(x0 + width * xi, knots.x)
    return jnp.where(inside, z, y), jnp.where(inside, -_curve(xi, s, d0, d1)[1], 0.0)
