"""Bijections of one number or one angle, by raw parameters from a network: what couplings and autoregressive flows are made of.

Raw parameters of zero give the identity, so a network whose last layer starts small starts near it.
"""

import math

import jax.numpy as jnp

from dlvm_jax.functional.flows import circle, constraints, monotonic, spline
from dlvm_jax.models.density import Net
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


def _of_raw_params(width, forward, inverse, read):
    """The `Scalar` of a functional pair, with parameters `read(raw_params)` and none of its own."""
    return Scalar(
        width,
        lambda key: {},
        lambda params, z, raw_params: forward(z, *read(raw_params)),
        lambda params, x, raw_params: inverse(x, *read(raw_params)),
    )


def shift() -> Scalar:
    """x = z + m (NICE: Dinh, Krueger, Bengio 2015)."""
    return _of_raw_params(
        1,
        lambda z, m: (z + m, jnp.zeros_like(z)),
        lambda x, m: (x - m, jnp.zeros_like(x)),
        lambda raw_params: (raw_params[..., 0],),
    )


def affine() -> Scalar:
    """x = m + e^s z, with s kept in (-3, 3) by a tanh: so deep flows keep their digits in float32."""

    def read(raw_params):
        return raw_params[..., 0], MAX_LOG_SCALE * jnp.tanh(raw_params[..., 1] / MAX_LOG_SCALE)

    return _of_raw_params(
        2,
        lambda z, m, s: (m + jnp.exp(s) * z, s),
        lambda x, m, s: ((x - m) * jnp.exp(-s), -s),
        read,
    )


def rational_quadratic(bins: int = 8, bound: float = 5.0) -> Scalar:
    """A rational-quadratic spline on [-bound, bound], the identity outside (Durkan et al. 2019)."""

    def read(raw_params):
        widths, heights, slopes = jnp.split(raw_params, (bins, 2 * bins), axis=-1)
        return (spline.spline_knots(widths, heights, spline.linear_tails(slopes), -bound, bound),)

    return _of_raw_params(3 * bins - 1, spline.rational_quadratic, spline.rational_quadratic_inverse, read)


def interval_spline(bins: int = 8, low: float = -1.0, high: float = 1.0) -> Scalar:
    """A rational-quadratic spline of [low, high] onto itself; its slopes at the ends are free."""

    def read(raw_params):
        widths, heights, slopes = jnp.split(raw_params, (bins, 2 * bins), axis=-1)
        return (spline.spline_knots(widths, heights, slopes, low, high),)

    return _of_raw_params(3 * bins + 1, spline.rational_quadratic, spline.rational_quadratic_inverse, read)


def _then_rotated(forward, inverse):
    """A pair on the circle, followed by a rotation: (angle, shift, parameters of the pair)."""

    def onward(z, shift, *parameters):
        angle, log_det = forward(circle.wrap(z), *parameters)  # a spline is the identity beyond its interval
        return circle.wrap(angle + shift), log_det

    def back(x, shift, *parameters):
        return inverse(circle.wrap(x - shift), *parameters)

    return onward, back


def circular_spline(bins: int = 8) -> Scalar:
    """A rational-quadratic spline of the circle and a rotation (Rezende et al. 2020, section 2.1.2)."""

    def read(raw_params):
        turn, widths, heights, slopes = jnp.split(raw_params, (1, 1 + bins, 1 + 2 * bins), axis=-1)
        slopes = spline.circular_slopes(slopes)
        return turn[..., 0], spline.spline_knots(widths, heights, slopes, -math.pi, math.pi)

    return _of_raw_params(
        1 + 3 * bins, *_then_rotated(spline.rational_quadratic, spline.rational_quadratic_inverse), read
    )


def moebius(centres: int = 12) -> Scalar:
    """A convex combination of Moebius transformations and a rotation (Rezende et al. 2020, section 2.1.1)."""

    def read(raw_params):
        turn, weights, points = jnp.split(raw_params, (1, 1 + centres), axis=-1)
        points = points.reshape(*points.shape[:-1], centres, 2)
        return turn[..., 0], constraints.moebius_centre(points), weights

    pair = _then_rotated(circle.moebius_mixture, circle.moebius_mixture_inverse)
    return _of_raw_params(1 + 3 * centres, *pair, read)


def non_compact_projection(components: int = 12) -> Scalar:
    """A convex combination of non-compact projections and a rotation (Rezende et al. 2020, section 2.1.3)."""

    def read(raw_params):
        turn, weights, alpha, beta = jnp.split(raw_params, (1, 1 + components, 1 + 2 * components), axis=-1)
        return turn[..., 0], constraints.positive(alpha), beta, weights

    pair = _then_rotated(circle.non_compact_projection_mixture, circle.non_compact_projection_mixture_inverse)
    return _of_raw_params(1 + 3 * components, *pair, read)


def umnn(net: Net, features: int, nodes: int = 32) -> Scalar:
    """An integral of a positive network of (t, h), h the features of the coordinate (Wehenkel & Louppe 2019).

    net: [*batch, 1 + features] -> [*batch, 1], of t and h;  nodes: of the quadrature

    The raw parameters are an offset and h; the network is trained, and is the same for all coordinates.
    """

    def slope(params, raw_params):
        def g(t):
            h = jnp.broadcast_to(raw_params[..., None, 1:], (*t.shape, features))
            return constraints.positive(
                net.apply(params, jnp.concatenate([t[..., None], h], axis=-1))[..., 0]
            )

        return g

    def forward(params, z, raw_params):
        return monotonic.monotonic(z, slope(params, raw_params), raw_params[..., 0], nodes)

    def inverse(params, x, raw_params):
        return monotonic.monotonic_inverse(x, slope(params, raw_params), raw_params[..., 0], nodes)

    return Scalar(1 + features, net.init, forward, inverse)
