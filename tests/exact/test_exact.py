"""The yardsticks themselves, against dense linear algebra, SciPy and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact import discrete, linear_gaussian

RNG = np.random.RandomState(3)


def linear_model(dim, latent):
    return linear_gaussian.LinearGaussian(
        jnp.asarray(RNG.randn(dim, latent)), jnp.asarray(RNG.randn(dim)), jnp.asarray(-0.7)
    )


@pytest.mark.parametrize("dim, latent", [(5, 2), (3, 3), (2, 4), (40, 6)])
def test_linear_gaussian_equals_the_dense_gaussian(dim, latent, x64):
    model = linear_model(dim, latent)
    x = RNG.randn(7, dim)
    w, sigma2 = np.asarray(model.w), np.exp(2 * float(model.log_std))
    covariance = w @ w.T + sigma2 * np.eye(dim)
    dense = scipy.stats.multivariate_normal(np.asarray(model.mean), covariance)
    np.testing.assert_allclose(linear_gaussian.log_evidence(model, x), dense.logpdf(x), rtol=1e-10)
    mean, tril = linear_gaussian.posterior(model, x)
    gain = w.T @ np.linalg.inv(covariance)  # conditioning the joint Gaussian, without the M x M identity
    np.testing.assert_allclose(mean, (x - np.asarray(model.mean)) @ gain.T, atol=1e-10)
    np.testing.assert_allclose(tril @ tril.T, np.eye(latent) - gain @ w, atol=1e-10)


def test_linear_gaussian_samples_have_the_right_covariance(x64):
    """Sample covariance of (x, z) within 6 standard errors of each entry, (1 + corr^2) / N at most 2 v_i v_j / N."""
    model = linear_model(3, 2)
    joint = np.concatenate(linear_gaussian.sample(model, jax.random.key(0), (100_000,)), axis=1)
    w = np.asarray(model.w)
    cross = np.block([[w @ w.T + np.exp(-1.4) * np.eye(3), w], [w.T, np.eye(2)]])
    scale = np.sqrt(2 * np.outer(np.diag(cross), np.diag(cross)) / 100_000)
    assert (np.abs(np.cov(joint.T) - cross) < 6 * scale).all()


def test_discrete_model_is_normalised_and_obeys_bayes(x64):
    model = discrete.DiscreteMixture(jnp.asarray(RNG.randn(3)), jnp.asarray(RNG.randn(3, 8)))
    x = discrete.all_binary(8)
    log_p = discrete.log_evidence(model, x)
    assert float(jnp.exp(log_p).sum()) == pytest.approx(1, abs=1e-12)
    joint = discrete.posterior(model, x) + log_p[:, None]
    np.testing.assert_allclose(joint, discrete.log_joint(model, x), rtol=1e-12)
    np.testing.assert_allclose(jnp.exp(joint).sum(0), jax.nn.softmax(model.prior_logits), rtol=1e-12)


def test_discrete_samples_follow_the_evidence():
    """Chi-square over 16 outcomes; false alarm 1e-3 for a fresh seed."""
    model = discrete.DiscreteMixture(jnp.asarray(RNG.randn(3)), jnp.asarray(RNG.randn(3, 4)))
    x, z = discrete.sample(model, jax.random.key(0), (50_000,))
    assert z.shape == (50_000,)
    counts = np.bincount((np.asarray(x) @ [8, 4, 2, 1]).astype(int), minlength=16)
    expected = np.exp(np.asarray(discrete.log_evidence(model, discrete.all_binary(4)), np.float64))
    assert scipy.stats.chisquare(counts, 50_000 * expected / expected.sum()).pvalue > 1e-3


def test_enumeration_of_too_many_bits_is_refused():
    with pytest.raises(ValueError, match="1 to 20"):
        discrete.all_binary(21)
