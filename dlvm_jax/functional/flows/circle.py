r"""Bijections of the circle, elementwise on angles in [-pi, pi], smooth over the seam.

Each maps theta [*batch] to (angle [*batch], log |d angle / d theta| [*batch]).  What is added to an angle before it is wrapped is
a smooth periodic function, so convex combinations of these maps are bijections as well.
"""

import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows.roots import monotone_root
from dlvm_jax.functional.numerics import as_wide, sum_event
from dlvm_jax.functional.types import Array, Numeric

__all__ = [
    "moebius",
    "moebius_inverse",
    "moebius_mixture",
    "moebius_mixture_inverse",
    "non_compact_projection",
    "non_compact_projection_inverse",
    "non_compact_projection_mixture",
    "non_compact_projection_mixture_inverse",
    "rotation",
    "wrap",
]


def wrap(theta: Array) -> Array:
    r"""The angle in [-pi, pi) of the same point of the circle; one that lies there is left as it is, to the last digit.

    $\theta - 2\pi\,\big\lfloor\tfrac{\theta+\pi}{2\pi}\big\rfloor$

    Shapes: any -> same.  Source: Mardia & Jupp 2000, section 1.2.

    >>> wrap(jnp.array([-3.0, 7.0])).round(4)
    Array([-3.    ,  0.7168], dtype=float32)
    """
    theta = as_wide(theta)
    return theta - 2 * jnp.pi * jnp.floor((theta + jnp.pi) / (2 * jnp.pi))


def rotation(theta: Array, shift: Numeric) -> tuple[Array, Array]:
    r"""Rotation of the circle; that by -shift is its inverse.

    $\theta + \varphi \bmod 2\pi,\quad \log|\det| = 0$

    Shapes: `theta`, `shift` broadcast to [*batch] -> angle [*batch], log_det [*batch].
    Source: Rezende et al. 2020, section 2.1.

    >>> rotation(jnp.array([3.0]), 4.0)[0].round(4)
    Array([0.7168], dtype=float32)
    """
    theta, shift = as_wide(theta, shift)
    moved = wrap(theta + shift)
    return moved, jnp.zeros_like(moved)


def _turn(theta, centre):
    """arg(1 - w e^(-i theta)), which lies in (-pi/2, pi/2) and is periodic, and |1 - w e^(-i theta)|^2."""
    a, b = centre[..., 0], centre[..., 1]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    real, imaginary = 1 - a * cos - b * sin, a * sin - b * cos
    return jnp.arctan2(imaginary, real), jnp.square(real) + jnp.square(imaginary)


def _kernel(square, centre):
    """log of the Poisson kernel (1 - |w|^2) / |z - w|^2."""
    return jnp.log1p(-sum_event(jnp.square(centre), 1)) - jnp.log(square)


def _lifted_moebius(theta, centre):
    """The map of the real line that commutes with a full turn, and its log-derivative."""
    turn, square = _turn(theta, centre)
    return theta + 2 * (turn - _turn(jnp.zeros_like(theta), centre)[0]), _kernel(square, centre)


def moebius(theta: Array, centre: Array) -> tuple[Array, Array]:
    r"""The Moebius transformation of the circle, turned so that the angle 0 stays, and its log-derivative.

    $e^{i\varphi} = \frac{1-\bar w}{1-w}\,h_w(e^{i\theta}),\ h_w(z) = \frac{1-|w|^2}{|z-w|^2}(z-w) - w,\quad
        \frac{d\varphi}{d\theta} = \frac{1-|w|^2}{|e^{i\theta}-w|^2}$

    that is $\varphi = \theta + 2\arg(1-we^{-i\theta}) - 2\arg(1-w)$, without a branch to choose.
    Shapes: `theta` [*batch], `centre` (w) [*batch, 2] with |w| < 1 (`constraints.moebius_centre`) -> angle [*batch] in [-pi, pi),
    log_det [*batch].  Source: Rezende et al. 2020, section 2.1.1.

    >>> moebius(jnp.array([0.0, 1.0]), jnp.zeros(2))[0]
    Array([0., 1.], dtype=float32)
    """
    lifted, log_det = _lifted_moebius(*as_wide(theta, centre))
    return wrap(lifted), log_det


def moebius_inverse(phi: Array, centre: Array) -> tuple[Array, Array]:
    r"""The inverse of the Moebius transformation, by that of the opposite centre, and its log-derivative.

    $e^{i\theta} = h_{-w}(e^{i\psi}),\quad \psi = \varphi + 2\arg(1-w)$

    Shapes: `phi` [*batch], `centre` [*batch, 2] -> angle [*batch] in [-pi, pi), log_det [*batch].
    Source: Rezende et al. 2020, section 2.1.1.

    >>> centre = jnp.array([0.5, -0.3])
    >>> theta, _ = moebius_inverse(moebius(jnp.array([2.0]), centre)[0], centre)
    >>> bool(jnp.allclose(theta, 2.0, atol=1e-6))
    True
    """
    phi, centre = as_wide(phi, centre)
    psi = phi + 2 * _turn(jnp.zeros_like(phi), centre)[0]
    turn, square = _turn(psi, -centre)
    return wrap(psi + 2 * turn), _kernel(square, centre)


def _combine(parts, log_weights):
    """Convex combination over the last axis: of the angles, and of the slopes."""
    angles, log_dets = parts
    log_weights = jax.nn.log_softmax(log_weights)
    return jnp.sum(jnp.exp(log_weights) * angles, axis=-1), jax.nn.logsumexp(log_weights + log_dets, axis=-1)


def _mixture_inverse(phi, mixture, log_weights, reach):
    """The root in [-reach, reach], and minus the log-derivative there."""
    phi = jnp.broadcast_to(wrap(phi), jnp.broadcast_shapes(phi.shape, log_weights.shape[:-1]))
    theta = monotone_root(lambda theta: mixture(theta)[0], phi, -reach, reach)
    return theta, -mixture(theta)[1]


def moebius_mixture(theta: Array, centres: Array, log_weights: Array) -> tuple[Array, Array]:
    r"""A convex combination of Moebius transformations, and its log-derivative.

    $\varphi = \sum_{k=1}^K\rho_k\,\varphi_k(\theta),\quad
        \frac{d\varphi}{d\theta} = \sum_k\rho_k\,\frac{1-|w_k|^2}{|e^{i\theta}-w_k|^2},\quad \rho = \mathrm{softmax}(\log\rho)$

    with the angles before they are wrapped.
    Shapes: `theta` [*batch], `centres` [*batch, K, 2], `log_weights` [*batch, K] (unconstrained) -> angle [*batch] in [-pi, pi),
    log_det [*batch].  Source: Rezende et al. 2020, section 2.1 (convex combinations).

    >>> moebius_mixture(jnp.array([0.0, 1.0]), jnp.zeros((3, 2)), jnp.zeros(3))[0].round(6)
    Array([0., 1.], dtype=float32)
    """
    theta, centres, log_weights = as_wide(theta, centres, log_weights)
    lifted, log_det = _combine(_lifted_moebius(theta[..., None], centres), log_weights)
    return wrap(lifted), log_det


def moebius_mixture_inverse(phi: Array, centres: Array, log_weights: Array) -> tuple[Array, Array]:
    r"""The inverse of a convex combination of Moebius transformations, by one scalar equation, and its log-derivative.

    $\theta:\quad \sum_k\rho_k\,\varphi_k(\theta) = \varphi,\quad -2\pi\le\theta\le 2\pi$

    Shapes: `phi` [*batch], `centres` [*batch, K, 2], `log_weights` [*batch, K] -> angle [*batch] in [-pi, pi), log_det [*batch].
    Source: Rezende et al. 2020, section 2.1.

    >>> parameters = (jnp.array([[0.5, -0.3], [0.0, 0.6]]), jnp.zeros(2))
    >>> theta, _ = moebius_mixture_inverse(moebius_mixture(jnp.array([2.0]), *parameters)[0], *parameters)
    >>> bool(jnp.allclose(theta, 2.0, atol=1e-6))
    True
    """
    phi, centres, log_weights = as_wide(phi, centres, log_weights)
    # The combination keeps -2 pi, 0 and 2 pi, so the bracket holds the root of every angle in it.
    theta, log_det = _mixture_inverse(
        phi,
        lambda theta: _combine(_lifted_moebius(theta[..., None], centres), log_weights),
        log_weights,
        2 * jnp.pi,
    )
    return wrap(theta), log_det


def _from_tangent(numerator, denominator):
    """The angle whose half has the tangent numerator / denominator, and the sum of squares."""
    angle = jnp.arctan2(2 * numerator * denominator, (denominator - numerator) * (denominator + numerator))
    return angle, jnp.square(numerator) + jnp.square(denominator)


def non_compact_projection(theta: Array, alpha: Numeric, beta: Numeric) -> tuple[Array, Array]:
    r"""An affine map of the line onto which the circle is projected from the point pi, and its log-derivative.

    $\tan\tfrac{\varphi}{2} = \alpha\tan\tfrac{\theta}{2} + \beta,\quad
        \frac{d\varphi}{d\theta} = \frac{\alpha}{\cos^2\frac\theta2 + (\alpha\sin\frac\theta2 + \beta\cos\frac\theta2)^2}$

    The paper's map with its fixed point 0 turned to pi.  No tangent is computed: it would overflow there.
    Shapes: `theta`, `alpha` > 0 (`constraints.positive`), `beta` broadcast to [*batch] -> angle [*batch], log_det [*batch].
    Source: Rezende et al. 2020, section 2.1.3.

    >>> non_compact_projection(jnp.array([0.0, 1.0]), 1.0, 0.0)[0]
    Array([0., 1.], dtype=float32)
    """
    theta, alpha, beta = as_wide(theta, alpha, beta)
    sin, cos = jnp.sin(theta / 2), jnp.cos(theta / 2)
    angle, square = _from_tangent(alpha * sin + beta * cos, cos)
    return angle, jnp.log(alpha) - jnp.log(square)


def non_compact_projection_inverse(phi: Array, alpha: Numeric, beta: Numeric) -> tuple[Array, Array]:
    r"""The inverse of the non-compact projection, in closed form, and its log-derivative.

    $\tan\tfrac{\theta}{2} = \frac{\tan\frac\varphi2 - \beta}{\alpha},\quad
        \frac{d\theta}{d\varphi} = \frac{\alpha}{\alpha^2\cos^2\frac\varphi2 + (\sin\frac\varphi2 - \beta\cos\frac\varphi2)^2}$

    Shapes: `phi`, `alpha` > 0, `beta` broadcast to [*batch] -> angle [*batch], log_det [*batch].
    Source: Rezende et al. 2020, section 2.1.3.

    >>> theta, _ = non_compact_projection_inverse(non_compact_projection(jnp.array([2.0]), 0.3, 1.5)[0], 0.3, 1.5)
    >>> bool(jnp.allclose(theta, 2.0, atol=1e-6))
    True
    """
    phi, alpha, beta = as_wide(phi, alpha, beta)
    sin, cos = jnp.sin(phi / 2), jnp.cos(phi / 2)
    angle, square = _from_tangent(sin - beta * cos, alpha * cos)
    return angle, jnp.log(alpha) - jnp.log(square)


def non_compact_projection_mixture(
    theta: Array, alpha: Array, beta: Array, log_weights: Array
) -> tuple[Array, Array]:
    r"""A convex combination of non-compact projections, and its log-derivative.

    $\varphi = \sum_{k=1}^K\rho_k\,2\arctan\big(\alpha_k\tan\tfrac\theta2 + \beta_k\big),\quad \rho = \mathrm{softmax}(\log\rho)$

    Shapes: `theta` [*batch], `alpha`, `beta`, `log_weights` (unconstrained) [*batch, K] -> angle [*batch] in [-pi, pi),
    log_det [*batch].  Source: Rezende et al. 2020, section 2.1 (convex combinations).

    >>> non_compact_projection_mixture(jnp.array([0.0, 1.0]), jnp.ones(3), jnp.zeros(3), jnp.zeros(3))[0].round(6)
    Array([0., 1.], dtype=float32)
    """
    theta, alpha, beta, log_weights = as_wide(theta, alpha, beta, log_weights)
    lifted, log_det = _combine(non_compact_projection(theta[..., None], alpha, beta), log_weights)
    return wrap(lifted), log_det  # rounding may carry a sum over pi


def non_compact_projection_mixture_inverse(
    phi: Array, alpha: Array, beta: Array, log_weights: Array
) -> tuple[Array, Array]:
    r"""The inverse of a convex combination of non-compact projections, by one scalar equation, and its log-derivative.

    $\theta:\quad \sum_k\rho_k\,2\arctan\big(\alpha_k\tan\tfrac\theta2 + \beta_k\big) = \varphi,\quad -\pi\le\theta\le\pi$

    Shapes: `phi` [*batch], `alpha`, `beta`, `log_weights` [*batch, K] -> angle [*batch], log_det [*batch].
    Source: Rezende et al. 2020, section 2.1.

    >>> parameters = (jnp.array([0.3, 2.0]), jnp.array([1.0, -1.0]), jnp.zeros(2))
    >>> phi, _ = non_compact_projection_mixture(jnp.array([2.0]), *parameters)
    >>> bool(jnp.allclose(non_compact_projection_mixture_inverse(phi, *parameters)[0], 2.0, atol=1e-6))
    True
    """
    phi, alpha, beta, log_weights = as_wide(phi, alpha, beta, log_weights)
    return _mixture_inverse(
        phi,
        lambda theta: _combine(non_compact_projection(theta[..., None], alpha, beta), log_weights),
        log_weights,
        jnp.pi,
    )
