r"""Diffusion of data from a mixture of Gaussians: score, denoiser, likelihood and what samplers return, in closed form.

One component is a Gaussian, components without variance are point masses.  `process` is a
`functional.diffusion.process.Process`; times are scalars.  `output_law` computes a sampler's output
distribution from the sampler itself.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlvm_jax.functional.diffusion.process import Process, alpha, sigma
from dlvm_jax.functional.numerics import LOG_2PI, as_wide, check_covariance, einsum
from dlvm_jax.functional.types import Array, Numeric, Shape

__all__ = [
    "GaussianMixture",
    "denoiser",
    "gaussian",
    "log_marginal",
    "mixture",
    "ode_map",
    "output_law",
    "point_masses",
    "posterior_covariance",
    "responsibilities",
    "score",
]


class GaussianMixture(NamedTuple):
    """A mixture as distribution of data.

    log_weights [K], means [K, D], variances [K, D] and axes [K, D, D], the eigenvalues and eigenvectors of the covariances.
    """

    log_weights: Array
    means: Array
    variances: Array
    axes: Array


def gaussian(mean: Array, covariance: Array) -> GaussianMixture:
    r"""A Gaussian as distribution of data.

    $x_0\sim\mathcal N(m, S)$

    Shapes: `mean` [D], `covariance` [D, D] -> `GaussianMixture` of one component.  Mixtures: stack the means and covariances
    in `mixture`.  Source: definition.

    >>> gaussian(jnp.zeros(2), jnp.eye(2)).means.shape
    (1, 2)
    """
    mean, covariance = as_wide(mean, covariance)
    return mixture(jnp.ones(1, mean.dtype), mean[None], covariance[None])


def mixture(weights: Array, means: Array, covariances: Array) -> GaussianMixture:
    r"""A mixture of Gaussians as distribution of data.

    $x_0\sim\sum_k\pi_k\,\mathcal N(m_k, S_k)$

    Shapes: `weights` [K], `means` [K, D], `covariances` [K, D, D].  Raises ValueError where they do not fit together,
    and, where they are concrete, for weights that are no distribution and for a covariance that is not symmetric, or indefinite,
    beyond rounding.
    Source: Bishop 2006, eq. 9.7.

    >>> mixture(jnp.ones(3), jnp.zeros((3, 2)), jnp.zeros((3, 2, 2))).log_weights.shape
    (3,)
    """
    weights, means, covariances = as_wide(weights, means, covariances)
    if means.ndim != 2:
        raise ValueError(
            f"each component has a mean [D] and a covariance [D, D], got means of shape {means.shape}"
        )
    count, dim = means.shape
    if weights.shape != (count,) or covariances.shape != (count, dim, dim):
        raise ValueError(
            f"means {means.shape} need weights ({count},) and covariances ({count}, {dim}, {dim}), "
            f"got {weights.shape} and {covariances.shape}"
        )
    share = None if isinstance(weights, Tracer) else np.asarray(weights)
    if share is not None and not ((share >= 0).all() and share.sum() > 0):
        raise ValueError(f"weights are not negative and have a positive sum, got {weights}")
    check_covariance(covariances)
    variances, axes = jnp.linalg.eigh(covariances)
    if not isinstance(variances, Tracer) and (variances < -1e-4 * jnp.abs(variances).max()).any():
        raise ValueError(f"covariances are positive semi-definite, got smallest eigenvalue {variances.min()}")
    return GaussianMixture(jnp.log(weights / weights.sum()), means, jnp.maximum(variances, 0.0), axes)


def point_masses(points: Array) -> GaussianMixture:
    r"""The empirical distribution of a data set.

    $q_0 = \frac1N\sum_n\delta_{x_n}$

    Its exact score leads a sampler back to the data set: a perfect denoiser of finite data memorises.
    Shapes: `points` [N, D].  Raises ValueError for others.  Source: Karras, Aittala, Aila, Laine 2022, appendix B.3.

    >>> point_masses(jnp.zeros((5, 2))).variances.shape
    (5, 2)
    """
    points = as_wide(points)
    if points.ndim != 2 or not len(points):
        raise ValueError(f"point masses are points [N, D], one or more, got shape {points.shape}")
    count, dim = points.shape
    axes = jnp.broadcast_to(jnp.eye(dim, dtype=points.dtype), (count, dim, dim))
    log_weights = jnp.full(count, -math.log(count), points.dtype)
    return GaussianMixture(log_weights, points, jnp.zeros_like(points), axes)


def _floats(law, x):
    *parts, x = as_wide(*law, x)
    return GaussianMixture(*parts), x


def _along_axes(law, process, x, t):
    """Deviations of x from each component's mean along its axes, [*batch, K, D], and the variances there, [K, D]."""
    if x.shape[-1:] != law.means.shape[1:]:
        raise ValueError(f"this law is of vectors of {law.means.shape[1]} numbers, got shape {x.shape}")
    if jnp.ndim(t):
        raise ValueError(
            f"all points are at one time, got times of shape {jnp.shape(t)}; map over them with jax.vmap"
        )
    centred = x[..., None, :] - alpha(process, t) * law.means
    deviations = einsum("...kd,kde->...ke", centred, law.axes)
    return deviations, jnp.square(alpha(process, t)) * law.variances + jnp.square(sigma(process, t))


def _log_joint(law, process, x, t):
    deviations, variances = _along_axes(law, process, x, t)
    quadratic = jnp.square(deviations) / variances + jnp.log(variances) + LOG_2PI
    return law.log_weights - 0.5 * quadratic.sum(-1)


def log_marginal(law: GaussianMixture, process: Process, x: Array, t: Numeric) -> Array:
    r"""Log-density of the noisy point.

    $\log q(x_t) = \log\sum_k\pi_k\,\mathcal N(x_t\mid\alpha_tm_k,\ \alpha_t^2S_k+\sigma_t^2I)$

    Shapes: `x` [*batch, D], t scalar -> [*batch], nats.  At a clean t it is the density of the data.
    Source: Bishop 2006, eq. 2.115.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> bool(jnp.isclose(log_marginal(gaussian(jnp.zeros(1), jnp.eye(1)), edm(), jnp.zeros(1), 1.0), -1.2655, atol=1e-4))
    True
    """
    law, x = _floats(law, x)
    return jax.nn.logsumexp(_log_joint(law, process, x, t), axis=-1)


def responsibilities(law: GaussianMixture, process: Process, x: Array, t: Numeric) -> Array:
    r"""Probability of each component given the noisy point.

    $r_k = p(k\mid x_t)$

    Shapes: `x` [*batch, D], t scalar -> [*batch, K].  Source: Bishop 2006, eq. 9.13.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> responsibilities(point_masses(jnp.array([[-1.0], [1.0]])), edm(), jnp.zeros(1), 1.0).tolist()
    [0.5, 0.5]
    """
    law, x = _floats(law, x)
    return jax.nn.softmax(_log_joint(law, process, x, t), axis=-1)


def _component_means(law, process, x, t):
    deviations, variances = _along_axes(law, process, x, t)
    gain = alpha(process, t) * law.variances / variances
    return law.means + einsum("...ke,kde->...kd", gain * deviations, law.axes)


def denoiser(law: GaussianMixture, process: Process, x: Array, t: Numeric) -> Array:
    r"""Expectation of the clean point given the noisy one: what a perfect network predicts.

    $\mathbb E[x_0\mid x_t] = \sum_kr_k\big(m_k + \alpha_tS_k(\alpha_t^2S_k+\sigma_t^2I)^{-1}(x_t-\alpha_tm_k)\big)$

    Shapes: `x` [*batch, D], t scalar -> [*batch, D].  `targets.from_x0` turns it into the exact epsilon, v, velocity.
    Source: Bishop 2006, eq. 2.116.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> denoiser(gaussian(jnp.zeros(1), jnp.eye(1)), edm(), jnp.ones(1), 1.0).tolist()
    [0.5]
    """
    law, x = _floats(law, x)
    share = responsibilities(law, process, x, t)
    return einsum("...k,...kd->...d", share, _component_means(law, process, x, t))


def posterior_covariance(law: GaussianMixture, process: Process, x: Array, t: Numeric) -> Array:
    r"""Covariance of the clean point given the noisy one.

    $\mathrm{Cov}[x_0\mid x_t] = \sum_kr_k\big(S_k-\alpha_t^2S_kC_k^{-1}S_k + d_kd_k^\top\big)$ with
    $C_k = \alpha_t^2S_k+\sigma_t^2I$ and $d_k$ the component's posterior mean less the whole one

    Its trace is the least squared error of any denoiser.  Shapes: `x` [*batch, D], t scalar -> [*batch, D, D].
    Source: Bishop 2006, eq. 2.117, and the law of total covariance.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> posterior_covariance(gaussian(jnp.zeros(1), jnp.eye(1)), edm(), jnp.ones(1), 1.0).tolist()
    [[0.5]]
    """
    law, x = _floats(law, x)
    share, means = responsibilities(law, process, x, t), _component_means(law, process, x, t)
    _, variances = _along_axes(law, process, x, t)
    remaining = law.variances * jnp.square(sigma(process, t)) / variances
    within = einsum("kde,ke,kfe->kdf", law.axes, remaining, law.axes)
    away = means - einsum("...k,...kd->...d", share, means)[..., None, :]
    between = einsum("...k,...kd,...kf->...df", share, away, away)
    return einsum("...k,kdf->...df", share, within) + between


def score(law: GaussianMixture, process: Process, x: Array, t: Numeric) -> Array:
    r"""Gradient of the log-density of the noisy point.

    $\nabla\log q(x_t) = -\sum_kr_k\,(\alpha_t^2S_k+\sigma_t^2I)^{-1}(x_t-\alpha_tm_k)$

    Shapes: `x` [*batch, D], t scalar -> [*batch, D].  Source: Bishop 2006.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> score(gaussian(jnp.zeros(1), jnp.eye(1)), edm(), jnp.ones(1), 1.0).tolist()
    [-0.5]
    """
    law, x = _floats(law, x)
    deviations, variances = _along_axes(law, process, x, t)
    each = einsum("...ke,kde->...kd", deviations / variances, law.axes)
    return -einsum("...k,...kd->...d", responsibilities(law, process, x, t), each)


def ode_map(law: GaussianMixture, process: Process, x: Array, t: Numeric, s: Numeric) -> Array:
    r"""Where the probability-flow ODE carries a point from time t to time s, for one Gaussian.

    $x_s = \alpha_sm + (\alpha_s^2S+\sigma_s^2I)^{1/2}(\alpha_t^2S+\sigma_t^2I)^{-1/2}(x_t-\alpha_tm)$

    The exact reference for deterministic samplers, their encoders and consistency models.
    Shapes: `x` [*batch, D], times scalar -> [*batch, D].  Raises ValueError for more than one component.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, eq. 13, solved for a Gaussian.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> moved = ode_map(gaussian(jnp.zeros(1), 3 * jnp.eye(1)), edm(), jnp.array([4.0]), 1.0, 1e-9)
    >>> bool(jnp.isclose(moved[0], 4 * jnp.sqrt(3 / 4)))
    True
    """
    if len(law.means) != 1:
        raise ValueError(f"the map is known in closed form for one Gaussian, got {len(law.means)} components")
    law, x = _floats(law, x)
    deviations, before = _along_axes(law, process, x, t)
    _, after = _along_axes(law, process, x, s)
    moved = jnp.sqrt(after / before) * deviations
    return alpha(process, s) * law.means[0] + einsum("...ke,kde->...d", moved, law.axes)


def output_law(
    sampler: Callable[[Array, Array], Array], mean: Array, covariance: Array, noise_shape: Shape
) -> tuple[Array, Array]:
    r"""Mean and covariance of a sampler's output, computed from the sampler itself without Monte Carlo.

    $x_{out} = A\,x_T + \sum_nB_nz_n + c:\quad \mathbb E = A\,\mu_T+c,\ \mathrm{Cov} = A\,\Sigma_TA^\top+\sum_nB_nB_n^\top$

    On Gaussian data with the exact denoiser a sampler is such an affine map of its start and of its standard-normal draws.
    Shapes: sampler: (x_T [D], noise [*noise_shape, D]) -> [D];  `mean` [D], `covariance` [D, D] of x_T -> the same two.
    Raises ValueError for other shapes, and if the sampler is not affine, which is looked at in two points, three standard
    deviations to either side of the mean.  Source: linear algebra.

    >>> law = output_law(lambda x, z: 2 * x + z[0], jnp.ones(1), jnp.eye(1), (1,))
    >>> law[0].tolist(), law[1].tolist()
    ([2.0], [[5.0]])
    """
    mean, covariance = as_wide(mean, covariance)
    if covariance.shape != (*mean.shape, *mean.shape) or mean.ndim != 1:
        raise ValueError(
            f"a mean [D] has a covariance [D, D], got shapes {mean.shape} and {covariance.shape}"
        )
    dim, product = len(mean), functools.partial(jnp.matmul, precision="highest")
    start, draws = mean, jnp.zeros((*noise_shape, dim), mean.dtype)
    out, (a, b) = sampler(start, draws), jax.jacrev(sampler, argnums=(0, 1))(start, draws)
    b = b.reshape(dim, -1)
    signs = jnp.sign(jnp.cos(jnp.arange(draws.size, dtype=draws.dtype)))
    for far in (3, -3):
        away, other = far * jnp.sqrt(jnp.diag(covariance)).astype(start.dtype), far * signs
        expected = out + product(a, away) + product(b, other)
        got = sampler(start + away, other.reshape(draws.shape))
        if not jnp.allclose(got, expected, rtol=1e-3, atol=1e-3 * jnp.abs(got).max()):
            raise ValueError("the sampler is not an affine map of its start and its noise on these data")
    return out, product(product(a, covariance), a.T) + product(b, b.T)
