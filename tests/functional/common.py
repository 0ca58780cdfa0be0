"""Oracles and statistics that several test files share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.polynomial.legendre import leggauss

from dlvm_jax.exact import linear_gaussian
from dlvm_jax.functional import densities as d

# @checks(bounds.elbo): the test compares the function's value with an independent answer (see dlvm_jax.formulas).
checks = pytest.mark.checks.with_args

# Sums of thousands of terms, each right to a few units in the last place.
TOLERANCE = {jnp.float32: 1e-5, jnp.float64: 1e-10}

_RNG = np.random.RandomState(0)
LINEAR = linear_gaussian.LinearGaussian(_RNG.randn(6, 3) * 0.8, _RNG.randn(6), np.float64(-0.4))


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def quadrature(low, high, nodes=400):
    """Gauss-Legendre nodes and weights on an interval."""
    x, w = leggauss(nodes)
    return (high - low) / 2 * x + (high + low) / 2, (high - low) / 2 * w


def central_difference(function, x, step=1e-5):
    """Gradient of a scalar function of an array, in NumPy; error about step^2 f''' / 6 + 1e-16 f / step."""
    x = np.asarray(x, np.float64)
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        gradient[index] = (float(function(x + shift)) - float(function(x - shift))) / (2 * step)
    return gradient


def chi_square_p(counts, probabilities):
    """p-value of counts, with the cells that expect fewer than five put together."""
    expected = np.asarray(probabilities, np.float64) * np.sum(counts)
    assert abs(expected.sum() / np.sum(counts) - 1) < 1e-5
    rare = expected < 5
    counts = np.append(np.asarray(counts)[~rare], np.asarray(counts)[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5:  # still too few: into the largest cell
        largest = np.argmax(expected[:-1])
        counts[largest] += counts[-1]
        expected[largest] += expected[-1]
        counts, expected = counts[:-1], expected[:-1]
    return scipy.stats.chi2.sf(np.sum((counts - expected) ** 2 / expected), len(counts) - 1)


class Law(NamedTuple):
    """A symmetric law cut into bins; `fall(t, u)` is log f(t + u) - log f(t) for t, u >= 0, below -38 beyond `reach(t)`."""

    log_prob: object
    sample: object
    scipy: object
    log_pdf: object
    fall: object
    reach: object


def _logistic_fall(t, u):
    return -u - 2 * (np.log1p(np.exp(-t - u)) - np.log1p(np.exp(-t)))


LAWS = {
    "logistic": Law(
        d.discretised_logistic_log_prob,
        d.discretised_logistic_sample,
        scipy.stats.logistic,
        lambda t: -t - 2 * np.log1p(np.exp(-t)),
        _logistic_fall,
        lambda t: np.full_like(t, 42.0),
    ),
    "normal": Law(
        d.discretised_normal_log_prob,
        d.discretised_normal_sample,
        scipy.stats.norm,
        lambda t: -0.5 * t**2 - 0.5 * np.log(2 * np.pi),
        lambda t, u: -t * u - 0.5 * u**2,
        lambda t: np.minimum(9.0, 40 / np.maximum(t, 1e-3)),
    ),
}


def _half(law, start, length):
    """log of the integral of the density from `start` >= 0 over `length`, the density at `start` taken out."""
    x, w = quadrature(0.0, 1.0, 60)
    span = np.minimum(length, law.reach(start))
    inner = np.exp(law.fall(start[..., None], span[..., None] * x)) @ w
    with np.errstate(divide="ignore"):
        return law.log_pdf(start) + np.log(span * inner)


def log_level(law, k, mean, log_scale, levels):
    """Log-probability of a level by quadrature over its bin, in float64 with edges in extended precision.

    No difference of two cdfs, so nothing cancels in the tails; agrees with SciPy's cdfs where those are accurate.
    """
    k, mean, log_scale = (np.asarray(v, np.longdouble) for v in np.broadcast_arrays(k, mean, log_scale))
    scale = np.exp(-log_scale)
    low, high = ((k + i) / levels * scale - mean * scale for i in (0, 1))
    low, high = np.where(k == 0, -np.inf, low), np.where(k == levels - 1, np.inf, high)
    flip = low + high < 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    above = np.asarray(np.maximum(low, 0), np.float64)
    inside = (low >= 0) & np.isfinite(high)
    length = np.where(inside, scale / levels, high - np.maximum(low, 0)).astype(np.float64)
    below = np.asarray(np.maximum(-low, 0), np.float64)
    return np.logaddexp(_half(law, above, length), _half(law, np.zeros_like(below), below))


def parts(model, x, z, log_posterior):
    """log p(x|z), log p(z), log q(z|x) in the linear-Gaussian model."""
    log_lik = d.normal_log_prob(x, z @ model.w.T + model.mean, model.log_std)
    return log_lik, d.normal_log_prob(z, 0.0, 0.0), log_posterior


def widened_posterior(model, x, spread):
    """The exact posterior with its covariance times `spread`; then E[L_1] = log p - (M/2)(s - 1 - log s)."""
    mean, tril = linear_gaussian.posterior(model, x)
    return mean, tril * jnp.sqrt(jnp.asarray(spread, tril.dtype))


def draw_parts(model, x, key, samples, spread):
    mean, tril = widened_posterior(model, x, spread)
    z = d.multivariate_normal_sample(key, mean, tril, (samples,))
    return parts(model, x, z, d.multivariate_normal_log_prob(z, mean, tril))
