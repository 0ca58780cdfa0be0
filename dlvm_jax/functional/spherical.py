r"""Distributions on the unit sphere: uniform, and von Mises-Fisher with density $f(x) \propto e^{\kappa\mu^\top x}$.

`dim` is the ambient dimension m >= 2: the sphere is $S^{m-1}$, points are unit vectors [*batch, m], densities are with respect
to its area.  Everything about the concentration goes through the angle $\theta$ between x and $\mu$, whose density is
proportional to $e^{\kappa\cos\theta}\sin^{m-2}\theta$: one Gauss-Legendre rule on a window around its mode serves all m and
kappa >= 0, without Bessel functions, which overflow, underflow, and have no derivative in the order and kappa that is stable.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.flows.orthogonal import householder
from dlvm_jax.functional.numerics import as_integer, as_wide, float_type, sum_event
from dlvm_jax.functional.types import Array, Key, Numeric, Shape

__all__ = [
    "mean_resultant_length",
    "to_sphere",
    "uniform_sphere_log_prob",
    "uniform_sphere_sample",
    "von_mises_fisher_kl_uniform",
    "von_mises_fisher_log_prob",
    "von_mises_fisher_sample",
]

_REACH = 36.0  # the window ends where the density has fallen by e^-36, below double precision
_PANELS = 32  # of the window, when a cdf is inverted: half a standard deviation each


def _rule(nodes):
    """Gauss-Legendre nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return (1 + x) / 2, w / 2


_FINE, _COARSE = _rule(64), _rule(8)


def _nodes(low, high, rule):
    """Nodes and weights between arrays of limits, on a new last axis."""
    width = (high - low)[..., None]
    x, w = (jnp.asarray(part, width.dtype) for part in rule)
    return low[..., None] + width * x, width * w


def check_dim(dim: int) -> None:
    """Raise ValueError unless `dim` is an integer of at least 2."""
    if as_integer(dim, "the ambient dimension") < 2:
        raise ValueError(f"a sphere needs an integer ambient dimension of at least 2, got {dim!r}")


def _log_area(dim):
    """Logarithm of the area of the unit sphere in R^dim."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def _window(concentration, dim):
    """The mode of the angle, and the ends of the interval that holds its mass."""
    k, n = jax.lax.stop_gradient(concentration), dim - 2
    mode = jnp.arctan2(jnp.sqrt(n * (n + jnp.sqrt(n * n + 4 * k * k)) / 2), k)
    # at distance u from the mode the log-density falls by about 2 curvature sin^2(u/2)
    curvature = k * jnp.cos(mode) + n
    reach = 2 * jnp.arcsin(jnp.sqrt(jnp.minimum(1.0, _REACH / 2 / curvature)))
    return mode, jnp.maximum(mode - reach, 0.0), jnp.minimum(mode + reach, math.pi)


def _log_ratio(angle, mode, concentration, dim):
    """log p(angle) - log p(mode), without the cancellation of two cosines."""
    u = angle - mode
    value = -2 * concentration * jnp.sin(mode + u / 2) * jnp.sin(u / 2)
    return value if dim == 2 else value + (dim - 2) * jnp.log(jnp.abs(jnp.sin(angle)) / jnp.sin(mode))


def _masses(concentration, dim):
    """Nodes of the angle, and p(node) / p(mode) times their weights; differentiable in kappa, as the nodes stay."""
    mode, low, high = _window(concentration, dim)
    angle, weight = _nodes(low, high, _FINE)
    ratio = _log_ratio(angle, mode[..., None], concentration[..., None], dim)
    return angle, weight * jnp.exp(ratio)


def _log_normaliser(concentration, dim):
    """log of the integral of exp(kappa (cos t - 1)) sin^(m-2) t over [0, pi]."""
    mode, _, _ = _window(concentration, dim)
    top = -2 * concentration * jnp.square(jnp.sin(mode / 2))
    if dim > 2:
        top = top + (dim - 2) * jnp.log(jnp.sin(mode))
    return top + jnp.log(jnp.sum(_masses(concentration, dim)[1], axis=-1))


def _shortfall(concentration, dim):
    """1 - A = E[1 - cos t], which would cancel for large kappa."""
    angle, mass = _masses(concentration, dim)
    return jnp.sum(mass * 2 * jnp.square(jnp.sin(angle / 2)), axis=-1) / jnp.sum(mass, axis=-1)


def mean_resultant_length(concentration: Numeric, dim: int) -> Array:
    r"""Length of the mean of a von Mises-Fisher vector, $\mathbb E[x] = A_m(\kappa)\,\mu$.

    $A_m(\kappa) = \frac{I_{m/2}(\kappa)}{I_{m/2-1}(\kappa)} = \frac{\kappa}{m-1}\,\mathbb E[\sin^2\theta]$

    The second form keeps its relative accuracy for small kappa.  Its derivative is $1 - A^2 - (m-1)A/\kappa$.
    Shapes: `concentration` [*batch] >= 0, `dim` the ambient dimension m -> [*batch].  Raises ValueError for dim below 2.
    Source: Mardia & Jupp 2000, section 9.3.2.

    >>> round(float(mean_resultant_length(2.0, 3)), 5)  # coth 2 - 1/2
    0.53731
    """
    check_dim(dim)
    concentration = as_wide(concentration)
    angle, mass = _masses(concentration, dim)
    mean = jnp.sum(mass * jnp.square(jnp.sin(angle)), axis=-1) / jnp.sum(mass, axis=-1)
    return concentration * mean / (dim - 1)


def to_sphere(x: Array) -> Array:
    r"""The nearest point of the unit sphere.

    $x / \|x\|$

    Shapes: `x` [*batch, m] -> [*batch, m]; zero goes to the unit vector with equal entries, with a zero gradient.
    Source: Davidson et al. 2018, section 3.

    >>> to_sphere(jnp.array([3.0, -4.0]))
    Array([ 0.6, -0.8], dtype=float32)
    """
    x = as_wide(x)
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    zero = largest == 0
    scale = jax.lax.stop_gradient(jnp.where(zero, 1.0, largest))  # so that squares cannot underflow
    scaled = jnp.where(zero, 1.0, x) / scale
    return scaled / jnp.linalg.norm(scaled, axis=-1, keepdims=True)


def uniform_sphere_log_prob(x: Array) -> Array:
    r"""Log-density of the uniform distribution on the unit sphere.

    $\log p(x) = -\log\frac{2\pi^{m/2}}{\Gamma(m/2)}$

    Shapes: unit vectors `x` [*batch, m] -> [*batch], nats; NaN for NaN.  Raises ValueError for m below 2.
    Source: Davidson et al. 2018, section 3 (the prior).

    >>> round(float(jnp.exp(-uniform_sphere_log_prob(jnp.array([1.0, 0.0]))) / jnp.pi), 5)
    2.0
    """
    x = as_wide(x)
    check_dim(x.shape[-1])
    value = jnp.full(x.shape[:-1], -_log_area(x.shape[-1]), x.dtype)
    return jnp.where(jnp.isnan(x).any(-1), jnp.nan, value)


def uniform_sphere_sample(key: Key, dim: int, shape: Shape = ()) -> Array:
    r"""Draw uniformly from the unit sphere.

    $x = g/\|g\|,\ g\sim\mathcal N(0, I_m)$

    Shapes: `dim` the ambient dimension m -> [*shape, m].  Raises ValueError for dim below 2.
    Source: Mardia & Jupp 2000, section 9.3.1; Muller 1959.

    >>> uniform_sphere_sample(jax.random.key(0), 3, (5,)).shape
    (5, 3)
    """
    check_dim(dim)
    return to_sphere(jax.random.normal(key, (*shape, dim)))


def von_mises_fisher_log_prob(x: Array, mean_direction: Array, concentration: Numeric) -> Array:
    r"""Log-density of the von Mises-Fisher distribution with respect to the area of the sphere.

    $\log f(x) = \kappa\,\mu^\top x + \log\frac{\kappa^{m/2-1}}{(2\pi)^{m/2} I_{m/2-1}(\kappa)}$

    Shapes: unit vectors `x` and `mean_direction` [*batch, m], `concentration` [*batch] >= 0, all broadcast -> [*batch],
    nats.  Raises ValueError for vectors of different sizes or m below 2.
    Source: Davidson et al. 2018, section 3.1; Mardia & Jupp 2000, section 9.3.2.

    >>> x = jnp.array([0.0, 1.0])
    >>> bool(jnp.isclose(von_mises_fisher_log_prob(x, x, 0.0), uniform_sphere_log_prob(x)))
    True
    """
    x, mean_direction, concentration = as_wide(x, mean_direction, concentration)
    dim = mean_direction.shape[-1]
    check_dim(dim)
    if x.shape[-1] != dim:
        raise ValueError(
            f"expected points on the sphere in R^{dim}, as the mean direction, got shape {x.shape}"
        )
    # kappa (mu.x - 1) as a square, exact where x is near mu and kappa is large
    exponent = -0.5 * concentration * sum_event(jnp.square(x - mean_direction), 1)
    return exponent - _log_normaliser(concentration, dim) - _log_area(dim - 1)


def von_mises_fisher_kl_uniform(concentration: Numeric, dim: int) -> Array:
    r"""KL of a von Mises-Fisher distribution from the uniform one on the sphere.

    $\mathrm{KL} = \kappa A_m(\kappa) + \log\frac{\kappa^{m/2-1}}{(2\pi)^{m/2} I_{m/2-1}(\kappa)}
        + \log\frac{2\pi^{m/2}}{\Gamma(m/2)}$

    Shapes: `concentration` [*batch] >= 0, `dim` the ambient dimension m -> [*batch], nats.  Raises ValueError for dim below 2.
    Source: Davidson et al. 2018, section 3.2.

    >>> round(float(von_mises_fisher_kl_uniform(1.0, 2)), 5)
    0.21048
    """
    check_dim(dim)
    concentration = as_wide(concentration)
    cross = concentration * _shortfall(concentration, dim)
    return _log_area(dim) - _log_area(dim - 1) - cross - _log_normaliser(concentration, dim)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _angle(uniform, concentration, dim):
    """The angle with the cdf `uniform` [*shape, *batch]; concentration [*batch].  The noise carries no gradient.

    First the panel of the window, by cumulated masses, then Newton's method inside, on a cdf that is nearly straight there.
    """
    mode, low, high = _window(concentration, dim)

    def density(angle, over):
        top, k = (x[(..., *[None] * over)] for x in (mode, concentration))
        return jnp.exp(_log_ratio(angle, top, k, dim))

    width = (high - low) / _PANELS
    starts = low[..., None] + width[..., None] * jnp.arange(_PANELS, dtype=width.dtype)
    angle, weight = _nodes(starts, starts + width[..., None], _COARSE)
    mass = jnp.sum(weight * density(angle, 2), axis=-1)
    below = jnp.cumsum(mass, axis=-1)
    target = uniform * below[..., -1]
    panel = jnp.sum(below[..., :-1] <= target[..., None], axis=-1)

    def chosen(table):
        table = jnp.broadcast_to(table, (*panel.shape, _PANELS))
        return jnp.take_along_axis(table, panel[..., None], axis=-1)[..., 0]

    start = chosen(starts)
    rest = target - jnp.where(panel > 0, chosen(jnp.roll(below, 1, axis=-1)), 0.0)

    def newton(_, angle):
        nodes, weight = _nodes(start, angle, _COARSE)
        excess = jnp.sum(weight * density(nodes, 1), axis=-1) - rest
        slope = jnp.maximum(density(angle, 0), jnp.finfo(angle.dtype).tiny)
        return jnp.clip(angle - excess / slope, start, start + width)

    share = jnp.clip(rest / chosen(mass), 0.0, 1.0)
    power = 1 / (dim - 1)  # of the cdf near the poles 0 and pi; elsewhere it is nearly straight
    south = (panel == _PANELS - 1) & (high >= math.pi)
    first = jnp.where(start > 0, jnp.where(south, 1 - (1 - share) ** power, share), share**power)
    return jax.lax.fori_loop(0, 5, newton, start + width * first)


@_angle.defjvp
def _angle_tangent(dim, primals, tangents):
    """d angle / d kappa = -(dF / d kappa) / p(angle), with dF / d kappa the integral of (cos t - A) p(t) up to the angle."""
    uniform, concentration = primals
    angle = _angle(uniform, concentration, dim)
    mode, low, high = _window(concentration, dim)
    lower = angle < mode  # the tail on the angle's own side, where the integrand keeps its sign
    nodes, weight = _nodes(jnp.where(lower, low, angle), jnp.where(lower, angle, high), _FINE)
    log_ratio = _log_ratio(nodes, mode[..., None], concentration[..., None], dim)
    log_ratio = log_ratio - _log_ratio(angle, mode, concentration, dim)[..., None]
    centred = _shortfall(concentration, dim)[..., None] - 2 * jnp.square(jnp.sin(nodes / 2))  # cos t - A
    tail = jnp.sum(weight * centred * jnp.exp(log_ratio), axis=-1)
    return angle, jnp.where(lower, -tail, tail) * tangents[1]


def von_mises_fisher_sample(
    key: Key, mean_direction: Array, concentration: Numeric, shape: Shape = ()
) -> Array:
    r"""Reparameterised draw from the von Mises-Fisher (vMF) distribution.

    $x = \cos\theta\,\mu + \sin\theta\,v,\quad v\perp\mu \text{ uniform},\quad F_\kappa(\theta) = u\sim U(0,1),\quad
      \frac{d\theta}{d\kappa} = -\frac{\partial F_\kappa(\theta)/\partial\kappa}{p_\kappa(\theta)}$

    The angle comes from its inverse cdf, and its gradient is the implicit one, which is unbiased (differentiating the usual
    rejection sampler through its accepted proposals is not).  Householder's reflection takes the first axis to $\mp\mu$, the
    farther of the two, so it is never 0/0; gradients in $\mu$ go through it.
    Shapes: unit vectors `mean_direction` [*batch, m], `concentration` [*batch] >= 0 -> [*shape, *batch, m].
    Raises ValueError for m below 2.
    Source: the decomposition: Ulrich 1984; implicit gradients: Figurnov, Mohamed, Mnih 2018, section 3.

    >>> von_mises_fisher_sample(jax.random.key(0), jnp.array([1.0, 0.0, 0.0]), 2.0, (5,)).shape
    (5, 3)
    """
    narrow = float_type(mean_direction, concentration)
    mean_direction, concentration = as_wide(mean_direction, concentration)
    dim = mean_direction.shape[-1]
    check_dim(dim)
    batch = jnp.broadcast_shapes(mean_direction.shape[:-1], concentration.shape)
    key_angle, key_side = jax.random.split(key)
    dtype = mean_direction.dtype
    half = (
        float(jnp.finfo(dtype).eps) / 2
    )  # random floats are eps apart: 0, where the density vanishes, stands for 0 to eps
    uniform = jax.random.uniform(key_angle, (*shape, *batch), dtype, minval=half)
    angle = _angle(uniform, concentration, dim)[..., None]
    side = to_sphere(jax.random.normal(key_side, (*shape, *batch, dim - 1), dtype))
    sign = jnp.where(mean_direction[..., :1] < 0, -1.0, 1.0).astype(dtype)
    normal = mean_direction + sign * jnp.eye(1, dim, dtype=dtype)[0]
    local = jnp.concatenate([jnp.cos(angle) * -sign, jnp.sin(angle) * side], axis=-1)
    return householder(local, normal)[0].astype(narrow)
