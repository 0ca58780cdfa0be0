r"""Unnormalised densities with a known normaliser: targets for flows that are trained without data.

`ENERGIES` is the table of them; log_partition is $\log Z = \log\int e^{\log\tilde p}$ over the domain, in closed form but for U1.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.numerics import as_wide, inner_product, norm
from dlvm_jax.functional.types import Array

__all__ = ["ENERGIES", "Energy", "ring", "sphere_modes", "torus_correlated", "torus_modes", "wave", "waves"]


class Energy(NamedTuple):
    """A target: points [*batch, n] -> log-density up to a constant [*batch], that constant log Z, and its domain.

    Domains: "torus" is angles in [-pi, pi)^2, "sphere" unit vectors in R^3, "plane" R^2, "strip" R^2 with |z_1| <= 4.
    """

    log_density: Callable[[Array], Array]
    log_partition: float
    domain: str


def torus_modes(theta: Array, centres: Array | np.ndarray) -> Array:
    r"""A mixture of products of von Mises densities on the torus, without its constant.

    $\log\tilde p(\theta) = \log\tfrac1K\sum_k e^{\sum_i\cos(\theta_i-\phi_{ki})},\quad Z = (2\pi I_0(1))^D$

    Shapes: angles `theta` [*batch, D], `centres` [K, D] -> [*batch].  Raises ValueError for others.
    Source: Rezende et al. 2020, section 3 (its T^D targets).

    >>> torus_modes(jnp.zeros(2), jnp.zeros((1, 2)))
    Array(2., dtype=float32)
    """
    theta, centres = as_wide(theta), as_wide(centres)
    if centres.ndim != 2 or theta.shape[-1:] != centres.shape[1:]:
        raise ValueError(f"angles [*batch, D] need centres [K, D], got shapes {theta.shape}, {centres.shape}")
    each = jnp.sum(jnp.cos(theta[..., None, :] - centres.astype(theta.dtype)), axis=-1)
    return jax.nn.logsumexp(each, axis=-1) - math.log(len(centres))


def torus_correlated(theta: Array) -> Array:
    r"""A density on the torus with uniform marginals and a strong dependence, without its constant.

    $\log\tilde p(\theta) = \cos\big(\sum_i\theta_i - 1.94\big),\quad Z = (2\pi)^D I_0(1)$

    Shapes: angles `theta` [*batch, D] -> [*batch].  Source: Rezende et al. 2020, section 3.

    >>> torus_correlated(jnp.array([1.0, 0.94]))
    Array(1., dtype=float32)
    """
    return jnp.cos(jnp.sum(as_wide(theta), axis=-1) - 1.94)


def _of_size(x, size):
    x = as_wide(x)
    if x.shape[-1:] != (size,):
        raise ValueError(f"this density is of points [*batch, {size}], got shape {x.shape}")
    return x


def _unit(latitude, longitude):
    sides = np.cos(latitude) * np.array([np.cos(longitude), np.sin(longitude)])
    return np.array([*sides, np.sin(latitude)])


TORUS_CENTRES = np.array([[0.21, 2.85], [1.89, 6.18], [3.77, 1.56]])
SPHERE_CENTRES = np.stack([_unit(*place) for place in ((0.7, 1.5), (-1.0, 1.0), (0.6, 5.0), (-0.7, 4.0))])


def sphere_modes(x: Array) -> Array:
    r"""A mixture of four von Mises-Fisher densities of concentration 10 on the sphere, without its constant.

    $\log\tilde p(x) = \log\sum_{k=1}^4e^{10\mu_k^\top x},\quad Z = 16\pi\,\frac{\sinh10}{10}$

    Latitude and longitude of the means: (0.7, 1.5), (-1, 1), (0.6, 5), (-0.7, 4).  The paper prints (0.6, 0.5) for the third,
    which does not give its own figure.
    Shapes: unit vectors `x` [*batch, 3] -> [*batch].  Raises ValueError for others.
    Source: Rezende et al. 2020, section 3, corrected.

    >>> bool(sphere_modes(jnp.asarray(SPHERE_CENTRES[0])) > 10)
    True
    """
    x = _of_size(x, 3)
    return jax.nn.logsumexp(
        10 * inner_product(jnp.asarray(SPHERE_CENTRES, x.dtype), x[..., None, :]), axis=-1
    )


def ring(z: Array) -> Array:
    r"""A ring with two modes in the plane, the energy U1, without its constant.

    $\log\tilde p(z) = -\tfrac12\big(\tfrac{\|z\|-2}{0.4}\big)^2
        + \log\big(e^{-\frac12(\frac{z_1-2}{0.6})^2} + e^{-\frac12(\frac{z_1+2}{0.6})^2}\big)$

    Shapes: `z` [*batch, 2] -> [*batch].  Raises ValueError for others.  Source: Rezende & Mohamed 2015, table 1.

    >>> bool(jnp.abs(ring(jnp.array([2.0, 0.0]))) < 1e-6)
    True
    """
    z = _of_size(z, 2)
    radius = norm(z)
    sides = [-0.5 * jnp.square((z[..., 0] + side) / 0.6) for side in (-2, 2)]
    return -0.5 * jnp.square((radius - 2) / 0.4) + jnp.logaddexp(*sides)


def wave(z: Array) -> Array:
    r"""A sinusoidal band of constant width, the energy U2, without its constant.

    $\log\tilde p(z) = -\tfrac12\big(\tfrac{z_2-w_1(z_1)}{0.4}\big)^2,\quad w_1(t) = \sin\tfrac{\pi t}2,\quad
        Z = 8\sqrt{2\pi}\cdot0.4$ on the strip

    It does not decay in z_1: on the whole plane it is no density.
    Shapes: `z` [*batch, 2] -> [*batch].  Raises ValueError for others.  Source: Rezende & Mohamed 2015, table 1.

    >>> wave(jnp.array([1.0, 1.4])).round(5)
    Array(-0.5, dtype=float32)
    """
    z = _of_size(z, 2)
    return -0.5 * jnp.square((z[..., 1] - jnp.sin(0.5 * jnp.pi * z[..., 0])) / 0.4)


def waves(z: Array, gap: Callable[[Array], Array], widths: tuple[float, float]) -> Array:
    r"""Two sinusoidal bands, the energies U3 and U4, without their constant.

    $\log\tilde p(z) = \log\big(e^{-\frac12(\frac{z_2-w_1(z_1)}{\sigma_1})^2}
        + e^{-\frac12(\frac{z_2-w_1(z_1)+g(z_1)}{\sigma_2})^2}\big),\quad Z = 8\sqrt{2\pi}(\sigma_1+\sigma_2)$ on the strip

    U3: $g(t) = 3e^{-\frac12(\frac{t-1}{0.6})^2}$, widths (.35, .35).  U4: $g(t) = 3\,\mathrm{sigmoid}\frac{t-1}{0.3}$,
    widths (.4, .35).
    Shapes: `z` [*batch, 2], `gap(z_1)` [*batch] -> [*batch], two `widths` -> [*batch].  Raises ValueError for others.
    Source: Rezende & Mohamed 2015, table 1.

    >>> waves(jnp.zeros(2), lambda t: 0 * t, (0.4, 0.35)) == jnp.log(2.0)
    Array(True, dtype=bool)
    """
    z = _of_size(z, 2)
    height = z[..., 1] - jnp.sin(0.5 * jnp.pi * z[..., 0])
    bands = height / widths[0], (height + gap(z[..., 0])) / widths[1]
    return jnp.logaddexp(*(-0.5 * jnp.square(band) for band in bands))


def _bump(t):
    return 3 * jnp.exp(-0.5 * jnp.square((t - 1) / 0.6))


def _rise(t):
    return 3 * jax.nn.sigmoid((t - 1) / 0.3)


_LOG_CIRCLE = math.log(2 * math.pi * np.i0(1.0))


def _log_bands(widths):
    return math.log(8 * math.sqrt(2 * math.pi) * widths)


ENERGIES = {
    "torus unimodal": Energy(
        partial(torus_modes, centres=np.array([[4.18, 5.96]])), 2 * _LOG_CIRCLE, "torus"
    ),
    "torus multimodal": Energy(partial(torus_modes, centres=TORUS_CENTRES), 2 * _LOG_CIRCLE, "torus"),
    "torus correlated": Energy(torus_correlated, _LOG_CIRCLE + math.log(2 * math.pi), "torus"),
    "sphere modes": Energy(sphere_modes, math.log(16 * math.pi * math.sinh(10) / 10), "sphere"),
    "U1": Energy(ring, 1.87750162610971, "plane"),  # by quadrature
    "U2": Energy(wave, _log_bands(0.4), "strip"),
    "U3": Energy(partial(waves, gap=_bump, widths=(0.35, 0.35)), _log_bands(0.7), "strip"),
    "U4": Energy(partial(waves, gap=_rise, widths=(0.4, 0.35)), _log_bands(0.75), "strip"),
}
