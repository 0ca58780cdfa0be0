"""Gaussian conditioning against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import conditioning
from dlvm_jax.functional.conditioning import gaussian_condition
from tests.functional.common import checks

gaussian_marginal, gaussian_posterior = map(
    jax.jit, (conditioning.gaussian_marginal, conditioning.gaussian_posterior)
)


def random(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def tril(seed, dim):
    return np.tril(random(seed, dim, dim), -1) + np.diag(np.exp(0.3 * random(seed + 1, dim)))


def condition(mean, covariance, observed, value):
    """The textbook conditional, with the inverse of a block of the covariance."""
    rest = np.setdiff1d(np.arange(len(mean)), observed)
    gain = np.linalg.solve(covariance[np.ix_(observed, observed)], covariance[np.ix_(observed, rest)]).T
    right = covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(observed, rest)]
    return mean[rest] + (value - mean[observed]) @ gain.T, right


def is_factor(factor, covariance, tolerance=1e-11):
    """Whether this is the lower Cholesky factor of a covariance; 1e-16 times condition numbers below 1e4."""
    lower = np.array_equal(factor, np.tril(factor)) and (np.diag(factor) > 0).all()
    return lower and np.allclose(factor @ factor.T, covariance, atol=tolerance, rtol=tolerance)


@checks(conditioning.gaussian_marginal, conditioning.gaussian_posterior)
@pytest.mark.parametrize("n, m", [(3, 5), (4, 2), (1, 1)])
def test_gaussian_marginal_and_posterior_equal_conditioning_the_joint(n, m, x64):
    mean, scale, a, b, noise = random(0, 2, n), tril(1, n), random(3, m, n), random(4, m), tril(5, m)
    cross = a @ scale @ scale.T
    joint = np.block([[scale @ scale.T, cross.T], [cross, cross @ a.T + noise @ noise.T]])
    marginal_mean, factor = gaussian_marginal(mean, scale, a, b, noise)
    np.testing.assert_allclose(marginal_mean, mean @ a.T + b, atol=1e-12)
    assert is_factor(factor, joint[n:, n:])
    y = random(7, 2, m)
    posterior_mean, factor = gaussian_posterior(mean, scale, a, b, noise, y)
    for i in range(2):
        both = np.concatenate([mean[i], mean[i] @ a.T + b])
        right_mean, right = condition(both, joint, np.arange(n, n + m), y[i])
        np.testing.assert_allclose(posterior_mean[i], right_mean, atol=1e-11)
        assert is_factor(factor, right)


@checks(gaussian_condition)
@pytest.mark.parametrize("observed", [[2], [4, 0], [1, 3, 2, 0]])
def test_gaussian_condition_equals_the_textbook(observed, x64):
    mean, scale, value = random(0, 5), tril(1, 5), random(2, 3, len(observed))
    ours_mean, factor = gaussian_condition(mean, scale, observed, value)
    right_mean, right = condition(mean, scale @ scale.T, np.array(observed), value)
    np.testing.assert_allclose(ours_mean, right_mean, atol=1e-11)
    assert is_factor(factor, right)


def test_factors_keep_digits_that_covariances_lose():
    """A prior 1e4 wide and a measurement of 1e-4: in float32 the covariances' difference has no digit left."""
    prior, noise = 1e4 * jnp.eye(1), 1e-4 * jnp.eye(1)
    one, zero = jnp.ones((1, 1)), jnp.zeros(1)
    mean, factor = gaussian_posterior(zero, prior, one, zero, noise, jnp.ones(1))
    assert float(factor[0, 0]) == pytest.approx(1e-4, rel=1e-5) and float(mean[0]) == pytest.approx(1)


@pytest.mark.parametrize("observed", [[5], [-1], [1, 1]])
def test_wrong_coordinates_are_refused(observed):
    with pytest.raises(ValueError, match=r"different indices from 0 to 4, got \["):
        gaussian_condition(jnp.zeros(5), jnp.eye(5), observed, jnp.zeros(len(observed)))
