"""Samplers follow their densities.

Every p-value is asked to exceed 1e-4: the false-alarm rate of one test for a fresh seed; the seeds are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact.discrete import all_binary
from dlvm_jax.functional import densities as d
from tests.functional.common import LAWS, checks, chi_square_p

DRAWS = 50_000


@checks(d.discretised_logistic_sample, d.discretised_normal_sample)
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("mean, log_scale", [(0.1, -2.0), (1.2, -1.0), (0.5, -4.0), (-0.4, 1.0)])
def test_discretised_samples_pass_chi_square(law, mean, log_scale):
    for levels in (2, 17, 256):
        draws = law.sample(jax.random.key(levels), jnp.full(1, mean), log_scale, levels, (DRAWS,))
        counts = np.bincount(np.asarray(draws, int)[:, 0], minlength=levels)
        log_prob = law.log_prob(np.arange(levels, dtype=np.float32)[:, None], mean, log_scale, levels)
        assert chi_square_p(counts, np.exp(log_prob)) > 1e-4


@checks(d.discretised_logistic_mixture_sample)
def test_logistic_mixture_samples_pass_chi_square():
    logits, mean, log_scale = jnp.array([[0.3, -1.0]]), jnp.array([[0.2, 0.8]]), jnp.array([[-3.0, -2.0]])
    draws = d.discretised_logistic_mixture_sample(jax.random.key(1), logits, mean, log_scale, 32, (DRAWS,))
    k = jnp.arange(32.0)[:, None]
    log_prob = d.discretised_logistic_mixture_log_prob(k, logits, mean, log_scale, 32)
    assert chi_square_p(np.bincount(np.asarray(draws, int)[:, 0], minlength=32), np.exp(log_prob)) > 1e-4


@checks(d.categorical_sample)
def test_categorical_samples_pass_chi_square():
    logits = jnp.array([[0.3, -1.0, 2.0, 0.0], [-3.0, 0.0, 0.0, 1.0]])
    draws = np.asarray(d.categorical_sample(jax.random.key(2), logits, (DRAWS,)), int)
    pairs = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(-1, 2)
    counts = np.bincount(draws @ [4, 1], minlength=16)
    assert chi_square_p(counts, np.exp(d.categorical_log_prob(pairs, logits))) > 1e-4


@checks(d.bernoulli_sample)
def test_bernoulli_samples_pass_chi_square():
    logits = jnp.array([-2.0, 0.5, 0.0])
    draws = np.asarray(d.bernoulli_sample(jax.random.key(3), logits, (DRAWS,)), int)
    counts = np.bincount(draws @ [4, 2, 1], minlength=8)
    assert chi_square_p(counts, np.exp(d.bernoulli_log_prob(all_binary(3), logits))) > 1e-4


@checks(d.normal_sample)
def test_normal_samples_pass_kolmogorov_smirnov_and_are_independent():
    draws = np.asarray(d.normal_sample(jax.random.key(4), jnp.array([1.0, -2.0]), -0.5, (DRAWS,)))
    for column, mean in zip(draws.T, (1.0, -2.0), strict=True):
        assert scipy.stats.kstest(column, scipy.stats.norm(mean, np.exp(-0.5)).cdf).pvalue > 1e-4
    assert scipy.stats.pearsonr(*draws.T).pvalue > 1e-4


@checks(d.multivariate_normal_sample)
def test_multivariate_normal_samples_pass_kolmogorov_smirnov_and_have_the_covariance():
    """Projections are normal; every entry of the covariance within five standard errors (false alarm 2e-6)."""
    mean, tril = np.array([1.0, -1.0, 0.5]), np.array([[1.0, 0, 0], [0.8, 0.3, 0], [-0.5, 1.0, 2.0]])
    arguments = (jnp.asarray(a, jnp.float32) for a in (mean, tril))
    draws = np.asarray(d.multivariate_normal_sample(jax.random.key(5), *arguments, (DRAWS,)), np.float64)
    covariance = tril @ tril.T
    for direction in np.random.RandomState(0).randn(3, 3):
        law = scipy.stats.norm(direction @ mean, np.sqrt(direction @ covariance @ direction))
        assert scipy.stats.kstest(draws @ direction, law.cdf).pvalue > 1e-4
    variance = np.diag(covariance)
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / DRAWS)
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * error).all()


def test_mean_log_prob_of_samples_is_the_negative_entropy():
    """Ties sampler and density together: five standard errors, false alarm 6e-7."""
    mean, log_std = jnp.array([0.3, -1.0]), jnp.array([-0.5, 0.7])
    draws = d.normal_sample(jax.random.key(7), mean, log_std, (DRAWS,))
    log_prob = np.asarray(d.normal_log_prob(draws, mean, log_std), np.float64)
    entropy = float(log_std.sum()) + 2 * 0.5 * np.log(2 * np.pi * np.e)
    assert abs(log_prob.mean() + entropy) < 5 * log_prob.std() / np.sqrt(DRAWS)


def test_reparameterised_gradients_are_right():
    """Gradients of E[z^2] and of E[(a.z)^2] in closed form; five standard errors, false alarm 6e-7 an entry."""
    mean, log_std = 0.7, -0.3
    gradient = jax.jacfwd(
        lambda p: jnp.square(d.normal_sample(jax.random.key(6), jnp.full(1, p[0]), p[1], (DRAWS,))[:, 0])
    )(jnp.array([mean, log_std]))
    expected = [2 * mean, 2 * np.exp(2 * log_std)]
    gradient = np.asarray(gradient, np.float64)
    assert (np.abs(gradient.mean(0) - expected) < 5 * gradient.std(0) / np.sqrt(DRAWS)).all()

    direction, tril = jnp.array([0.6, -0.8]), jnp.array([[1.0, 0.0], [0.8, 0.3]])
    gradient = jax.jacfwd(
        lambda l: jnp.square(
            d.multivariate_normal_sample(jax.random.key(8), jnp.ones(2), l, (DRAWS,)) @ direction
        )
    )(tril)
    gradient = np.asarray(gradient, np.float64)
    expected = 2 * np.outer(direction, direction @ tril)  # of a^T L L^T a, with respect to L
    assert (np.abs(gradient.mean(0) - expected) < 5 * gradient.std(0) / np.sqrt(DRAWS) + 1e-6).all()
