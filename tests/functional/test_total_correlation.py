"""The aggregated posterior and the parts of the KL equal quadrature and Gaussian closed forms; minibatch weights are unbiased."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.polynomial.legendre import leggauss

from dlvm_jax.functional import densities
from dlvm_jax.functional.mixtures import normal_mixture_log_prob
from dlvm_jax.functional.total_correlation import (
    gaussian_total_correlation,
    stratified_log_weights,
    total_correlation_terms,
)
from tests.functional.common import central_difference, checks

EXAMPLES = 6


def posteriors(seed=0, n=EXAMPLES, dim=2):
    rng = np.random.RandomState(seed)
    return rng.randn(n, dim) @ (np.eye(dim) + 0.7), 0.3 * rng.randn(n, dim) - 0.7


def mixture_density(z, mean, log_std):
    """q(z) by SciPy, z [S, M]."""
    each = scipy.stats.norm.pdf(z[:, None], mean, np.exp(log_std))
    return each.prod(-1).mean(-1), each.mean(1)


@checks(stratified_log_weights)
@pytest.mark.parametrize("batch", [2, 3, EXAMPLES])
def test_stratified_weights_are_unbiased_by_enumeration(x64, batch):
    """For each i, the mean over all minibatches that contain i is q(z) itself, with z drawn from q(z|x_i)."""
    mean, log_std = posteriors()
    z = densities.normal_sample(jax.random.key(0), mean, log_std)  # row i from its own component
    truth, _ = mixture_density(np.asarray(z), mean, log_std)
    weights = stratified_log_weights(batch, EXAMPLES)
    for i in range(EXAMPLES):
        others = itertools.combinations([j for j in range(EXAMPLES) if j != i], batch - 1)
        values = []
        for chosen in others:
            rows = np.array([i, *chosen])
            values.append(np.exp(normal_mixture_log_prob(z[i], mean[rows], log_std[rows], weights[0])))
        assert np.mean(values) == pytest.approx(truth[i], rel=1e-12)


def test_stratified_weights_are_unbiased_where_equal_weights_are_not(x64):
    """200 examples, minibatches of 10 and draws of their own posteriors: within five standard errors, false alarm 6e-7.

    Equal weights count a draw's own component with 1/10 instead of 1/200, twenty times too often.
    """
    mean, log_std = posteriors(3, 200, 4)
    weights = stratified_log_weights(10, 200)

    def one(key):
        key_batch, key_z = jax.random.split(key)
        rows = jax.random.choice(key_batch, 200, (10,), replace=False)
        m, s = jnp.asarray(mean)[rows], jnp.asarray(log_std)[rows]
        z = densities.normal_sample(key_z, m, s)
        equal = jnp.full((10, 10), -jnp.log(10.0))
        full = jnp.exp(normal_mixture_log_prob(z, mean, log_std)).mean()
        stratified, naive = (jnp.exp(normal_mixture_log_prob(z, m, s, w)).mean() for w in (weights, equal))
        return stratified - full, naive - full, full

    error, naive, truth = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 20_000))
    scale = error.std() / np.sqrt(len(error))
    assert abs(error.mean()) < 5 * scale and scale < 0.02 * truth.mean()
    assert naive.mean() > 3 * truth.mean()


def test_stratified_weights_are_rows_of_one_and_equal_on_the_whole_set(x64):
    weights = np.exp(stratified_log_weights(7, 50))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.diag(weights), 1 / 50, rtol=1e-12)
    np.testing.assert_allclose(np.exp(stratified_log_weights(9, 9)), 1 / 9, rtol=1e-12)


def quadrature_terms(mean, log_std):
    """I(x; z), TC(z) and the dimension-wise KL to N(0, I) in the plane, by quadrature."""
    nodes, weights = leggauss(240)
    half = 9.0
    plane = half * np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    volume = half**2 * np.outer(weights, weights).ravel()
    joint, marginal = mixture_density(plane, mean, log_std)
    total = np.sum(volume * joint * (np.log(joint) - np.log(marginal).sum(-1)))
    entropy_joint = -np.sum(volume * joint * np.log(joint))
    entropy_each = (0.5 * np.log(2 * np.pi * np.e) + log_std).sum(1).mean()
    product_prior = np.log(marginal).sum(-1) - scipy.stats.norm.logpdf(plane).sum(-1)
    return entropy_joint - entropy_each, total, np.sum(volume * joint * product_prior)


@checks(total_correlation_terms)
def test_terms_over_the_whole_set_equal_quadrature(x64):
    """Each within five standard errors of 40,000 draws an example (about 0.005 nats), false alarm 2e-6."""
    mean, log_std = (jnp.asarray(a) for a in posteriors())
    z = densities.normal_sample(jax.random.key(0), mean, log_std, (40_000,))
    terms = jax.jit(total_correlation_terms)(z, mean, log_std, densities.normal_log_prob(z, 0.0, 0.0))
    for term, truth in zip(terms, quadrature_terms(*map(np.asarray, (mean, log_std))), strict=True):
        assert term.shape == (40_000, EXAMPLES)
        error = np.sqrt(term.var(0).sum() / 40_000) / EXAMPLES
        assert abs(term.mean() - truth) < 5 * error and error < 0.005


def test_terms_add_up_to_the_kl_of_each_draw(dtype):
    """Whatever the weights: a telescoping sum, to rounding of terms of size ten."""
    mean, log_std = (jnp.asarray(a, dtype) for a in posteriors())
    z = densities.normal_sample(jax.random.key(0), mean, log_std, (20,))
    log_prior = densities.normal_log_prob(z, 0.3, 0.2)
    kl = densities.normal_log_prob(z, mean, log_std) - log_prior
    for weights in (None, stratified_log_weights(EXAMPLES, 100)):
        terms = total_correlation_terms(z, mean, log_std, log_prior, weights)
        assert all(term.dtype == dtype for term in terms)
        np.testing.assert_allclose(sum(terms), kl, atol=2e-5 if dtype == jnp.float32 else 1e-12)


def test_terms_of_a_gaussian_aggregate_equal_the_closed_forms(x64):
    """x ~ N(0, C), q(z|x) = N(x, s^2 I): q(z) = N(0, S), S = C + s^2 I, so I = log|S|/2 - M log s, and TC in closed form.

    With 2,000 data points q(z) is itself random: figures to 0.06 nats, about three times what sets of this size scatter by.
    """
    factor = np.array([[1.0, 0.0], [0.8, 0.6]])
    x = jnp.asarray(np.random.RandomState(0).randn(2000, 2) @ factor.T)
    log_std = jnp.full((2000, 2), np.log(0.5))
    covariance = factor @ factor.T + 0.25 * np.eye(2)
    z = densities.normal_sample(jax.random.key(0), x, log_std)
    terms = jax.jit(total_correlation_terms)(z, x, log_std, densities.normal_log_prob(z, 0.0, 0.0))
    total = float(gaussian_total_correlation(covariance))
    information = 0.5 * np.linalg.slogdet(covariance)[1] - 2 * np.log(0.5)
    variances = np.diag(covariance)
    separate = 0.5 * (variances - 1 - np.log(variances)).sum()
    np.testing.assert_allclose([term.mean() for term in terms], [information, total, separate], atol=0.06)


def test_gradient_equals_central_differences(x64):
    mean, log_std = posteriors()
    eps = np.random.RandomState(2).randn(EXAMPLES, 2)
    weights = stratified_log_weights(EXAMPLES, 40)

    def total(numbers):
        m, s = numbers
        z = densities.reparameterise(eps, m, s)
        return total_correlation_terms(z, m, s, jnp.zeros(EXAMPLES), weights).total_correlation.sum()

    at = np.stack([mean, log_std])
    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(jnp.asarray(at)), central_difference(jax.jit(total), at), atol=1e-7
    )


@checks(gaussian_total_correlation)
def test_gaussian_total_correlation_equals_entropies_and_forgets_scale(x64):
    rng = np.random.RandomState(0)
    factor = rng.randn(3, 4, 4)
    covariance = factor @ np.swapaxes(factor, 1, 2) + 0.1 * np.eye(4)
    value = gaussian_total_correlation(jnp.asarray(covariance))
    for matrix, one in zip(covariance, value, strict=True):
        joint = scipy.stats.multivariate_normal(np.zeros(4), matrix).entropy()
        separate = sum(scipy.stats.norm(0, np.sqrt(v)).entropy() for v in np.diag(matrix))
        assert float(one) == pytest.approx(separate - joint, abs=1e-10)
    scale = np.array([1e-3, 1.0, 10.0, 1e4])
    np.testing.assert_allclose(gaussian_total_correlation(covariance * np.outer(scale, scale)), value)
    with jax.enable_x64(False):  # 1e-5: a few roundings of logarithms of size one
        single = gaussian_total_correlation(jnp.asarray(covariance * np.outer(scale, scale), jnp.float32))
        np.testing.assert_allclose(single, value, atol=1e-5, rtol=1e-5)


def test_bad_input_is_refused():
    for batch, examples in ((1, 5), (6, 5)):
        with pytest.raises(ValueError, match=rf"2 <= batch <= examples, got {batch} and {examples}"):
            stratified_log_weights(batch, examples)
    with pytest.raises(ValueError, match=r"a square matrix, got shape \(2, 3\)"):
        gaussian_total_correlation(jnp.zeros((2, 3)))
