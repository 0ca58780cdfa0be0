"""Bijections of one number or one angle, by the numbers a network gives: what couplings and autoregressive flows are made of.

Zeros give the identity, so a network whose last layer starts small starts near it.
"""

import math

import jax.numpy as jnp

from dlvm_jax.functional.flows import circle, constraints, monotonic, spline
from dlvm_jax.models.flows import Scalar

__all__ = [
    "affine",
    "circular_spline",
    "interval_spline",
    "moebius",
    "non_compact_projection",
    "rational_quadratic",
    "shift",
    "umnn",
]

MAX_LOG_SCALE = 3.0


def _without_parameters(width, forward, inverse, read):
    """A `Scalar` of a functional pair whose parameters `read` makes of the numbers."""
    return Scalar(
        width,
        lambda key: {},
        lambda params, z, numbers: forward(z, *read(numbers)),
        lambda params, x, numbers: inverse(x, *read(numbers)),
    )


def shift():
    """x = z + m (NICE: Dinh, Krueger, Bengio 2015)."""
    return _without_parameters(
        1,
        lambda z, m: (z + m, jnp.zeros_like(z)),
        lambda x, m: (x - m, jnp.zeros_like(x)),
        lambda numbers: (numbers[..., 0],),
    )


def affine():
    """x = m + e^s z, with s held in (-3, 3) by a tanh: so many layers keep their digits in float32."""

    def read(numbers):
        return numbers[..., 0], MAX_LOG_SCALE * jnp.tanh(numbers[..., 1] / MAX_LOG_SCALE)

    return _without_parameters(
        2,
        lambda z, m, s: (m + jnp.exp(s) * z, s),
        lambda x, m, s: ((x - m) * jnp.exp(-s), -s),
        read,
    )


def rational_quadratic(bins=8, bound=5.0):
    """A rational-quadratic spline on [-bound, bound], the identity outside (Durkan et al. 2019)."""

    def read(numbers):
        widths, heights, slopes = jnp.split(numbers, (bins, 2 * bins), axis=-1)
        return (spline.spline_knots(widths, heights, spline.linear_tails(slopes), -bound, bound),)

    return _without_parameters(
        3 * bins - 1, spline.rational_quadratic, spline.rational_quadratic_inverse, read
    )


def interval_spline(bins=8, low=-1.0, high=1.0):
    """A rational-quadratic spline of [low, high] onto itself; its slopes at the ends are free, as nothing lies beyond."""

    def read(numbers):
        widths, heights, slopes = jnp.split(numbers, (bins, 2 * bins), axis=-1)
        return (spline.spline_knots(widths, heights, slopes, low, high),)

    return _without_parameters(
        3 * bins + 1, spline.rational_quadratic, spline.rational_quadratic_inverse, read
    )


def _turned(forward, inverse):
    """A pair on the circle, followed by a rotation: (angle, shift, parameters of the pair)."""

    def onward(z, shift, *parameters):
        angle, log_det = forward(z, *parameters)
        return circle.wrap(angle + shift), log_det

    def back(x, shift, *parameters):
        return inverse(circle.wrap(x - shift), *parameters)

    return onward, back


def circular_spline(bins=8):
    """A rational-quadratic spline of the circle and a rotation (Rezende et al. 2020, section 2.1.2)."""

    def read(numbers):
        turn, widths, heights, slopes = jnp.split(numbers, (1, 1 + bins, 1 + 2 * bins), axis=-1)
        slopes = spline.circular_slopes(slopes)
        return turn[..., 0], spline.spline_knots(widths, heights, slopes, -math.pi, math.pi)

    return _without_parameters(
        1 + 3 * bins, *_turned(spline.rational_quadratic, spline.rational_quadratic_inverse), read
    )


def moebius(centres=12):
    """A convex combination of Moebius transformations and a rotation (Rezende et al. 2020, section 2.1.1)."""

    def read(numbers):
        turn, weights, points = jnp.split(numbers, (1, 1 + centres), axis=-1)
        points = points.reshape(*points.shape[:-1], centres, 2)
        return turn[..., 0], constraints.moebius_centre(points), weights

    pair = _turned(circle.moebius_mixture, circle.moebius_mixture_inverse)
    return _without_parameters(1 + 3 * centres, *pair, read)


def non_compact_projection(components=12):
    """A convex combination of non-compact projections and a rotation (Rezende et al. 2020, section 2.1.3)."""

    def read(numbers):
        turn, weights, alpha, beta = jnp.split(numbers, (1, 1 + components, 1 + 2 * components), axis=-1)
        return turn[..., 0], constraints.positive(alpha), beta, weights

    pair = _turned(circle.non_compact_projection_mixture, circle.non_compact_projection_mixture_inverse)
    return _without_parameters(1 + 3 * components, *pair, read)


def umnn(net, features, nodes=32):
    """An integral of a positive network of (t, h), h the features of the coordinate (Wehenkel & Louppe 2019).

    `net` maps [*batch, 1 + features] to [*batch, 1]; the numbers are an offset and h.
    """

    def slope(params, numbers):
        def g(t):
            h = jnp.broadcast_to(numbers[..., None, 1:], (*t.shape, features))
            return constraints.positive(
                net.apply(params, jnp.concatenate([t[..., None], h], axis=-1))[..., 0]
            )

        return g

    def forward(params, z, numbers):
        return monotonic.monotonic(z, slope(params, numbers), numbers[..., 0], nodes)

    def inverse(params, x, numbers):
        return monotonic.monotonic_inverse(x, slope(params, numbers), numbers[..., 0], nodes)

    return Scalar(1 + features, net.init, forward, inverse)
