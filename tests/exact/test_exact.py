"""The yardsticks themselves, against dense linear algebra, SciPy and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact import discrete, linear_gaussian


def linear_model(dim, latent, log_std=-0.7, seed=3):
    rng = np.random.RandomState(seed)
    parts = rng.randn(dim, latent), rng.randn(dim), log_std
    return linear_gaussian.LinearGaussian(*map(jnp.asarray, parts))


def dense(model):
    """Mean and covariance of the joint of (x, z), by the definition of the model."""
    w, sigma2 = np.asarray(model.w, np.float64), np.exp(2 * float(model.log_std))
    dim, latent = w.shape
    mean = np.concatenate([np.asarray(model.mean, np.float64), np.zeros(latent)])
    return mean, np.block([[w @ w.T + sigma2 * np.eye(dim), w], [w.T, np.eye(latent)]])


@pytest.mark.parametrize("dim, latent", [(5, 2), (3, 3), (2, 4), (1, 1), (40, 6)])
@pytest.mark.parametrize("log_std", [-3.0, -0.7, 1.5])
def test_linear_gaussian_evidence_equals_scipy(dim, latent, log_std, x64):
    """1e-9 of values of up to a thousand: SciPy's eigendecomposition of C has condition number up to 1e5."""
    model = linear_model(dim, latent, log_std)
    x = 2 * np.random.RandomState(1).randn(7, dim)
    mean, joint = dense(model)
    expected = scipy.stats.multivariate_normal(mean[:dim], joint[:dim, :dim]).logpdf(x)
    np.testing.assert_allclose(linear_gaussian.log_evidence(model, x), expected, rtol=1e-9, atol=1e-9)


def is_posterior(model, x, mean, covariance):
    """Whether these are the conditional of the joint Gaussian, computed without the M x M identity."""
    dim = model.w.shape[0]
    joint_mean, joint = dense(model)
    gain = np.linalg.solve(joint[:dim, :dim], joint[:dim, dim:]).T
    right_mean = (x - joint_mean[:dim]) @ gain.T
    right_covariance = joint[dim:, dim:] - gain @ joint[:dim, dim:]
    # subtracting from the identity leaves 1e-16 times a condition number of 1e5
    return np.allclose(mean, right_mean, atol=1e-9) and np.allclose(covariance, right_covariance, atol=1e-9)


@pytest.mark.parametrize("dim, latent", [(5, 2), (3, 3), (2, 4), (40, 6)])
def test_linear_gaussian_posterior_equals_conditioning_the_joint(dim, latent, x64):
    model = linear_model(dim, latent)
    x = np.random.RandomState(1).randn(7, dim)
    mean, tril = linear_gaussian.posterior(model, x)
    assert is_posterior(model, x, mean, tril @ tril.T)
    np.testing.assert_array_equal(tril, jnp.tril(tril))
    assert (jnp.diagonal(tril) > 0).all()


def test_misprinted_formulas_would_fail(x64):
    r"""The precision $\sigma^{-2}M$ in place of the covariance, and $\sigma^{-1}I$ in place of $\sigma^{-2}I$ in $C^{-1}$."""
    model = linear_model(5, 2)
    x = np.random.RandomState(1).randn(7, 5)
    w, sigma2 = np.asarray(model.w), np.exp(2 * float(model.log_std))
    m = w.T @ w + sigma2 * np.eye(2)
    mean = linear_gaussian.posterior(model, x)[0]
    assert is_posterior(model, x, mean, sigma2 * np.linalg.inv(m))
    assert not is_posterior(model, x, mean, m / sigma2)
    joint = dense(model)[1]
    for power, right in ((1.0, True), (0.5, False)):
        inverse = np.eye(5) / sigma2**power - w @ np.linalg.inv(m) @ w.T / sigma2
        assert np.allclose(inverse @ joint[:5, :5], np.eye(5), atol=1e-9) is right
        centred = x - np.asarray(model.mean)
        square = np.einsum("nd,de,ne->n", centred, inverse, centred)
        value = -0.5 * (square + np.linalg.slogdet(2 * np.pi * joint[:5, :5])[1])
        assert np.allclose(linear_gaussian.log_evidence(model, x), value, rtol=1e-9) is right


@pytest.mark.parametrize("log_std", [0.0, -3.0, -6.0])
def test_linear_gaussian_evidence_in_float32_survives_small_noise(log_std):
    """Rounding of x moves it by eps |x| / sigma standard deviations, with a slope of about sqrt(D): 5 of each."""
    single = jax.tree.map(jnp.float32, linear_model(20, 3, log_std))
    x = linear_gaussian.sample(single, jax.random.key(0), (50,))[0]
    ours = linear_gaussian.log_evidence(single, x)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (single, x))
        truth = np.asarray(linear_gaussian.log_evidence(*double))
    slack = 25 * 1.2e-7 * np.sqrt(20) * float(np.abs(x).max()) * np.exp(-log_std)
    np.testing.assert_allclose(ours, truth, rtol=1e-6, atol=max(slack, 1e-5))


def test_linear_gaussian_samples_have_the_right_moments(x64):
    """Every entry of mean and covariance of (x, z) within five standard errors; false alarm 6e-7 each, 1e-5 in all."""
    model, draws = linear_model(3, 2), 100_000
    x, z = linear_gaussian.sample(model, jax.random.key(0), (draws,))
    joint = np.concatenate([x, z], axis=1)
    mean, covariance = dense(model)
    variance = np.diag(covariance)
    assert (np.abs(joint.mean(0) - mean) < 5 * np.sqrt(variance / draws)).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / draws)
    assert (np.abs(np.cov(joint.T) - covariance) < 5 * error).all()


def test_linear_gaussian_batches_models_and_data(dtype):
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), linear_model(4, 2))
    x = jnp.asarray(np.random.RandomState(1).randn(2, 3, 4), dtype)
    value = linear_gaussian.log_evidence(model, x)
    assert value.shape == (2, 3) and value.dtype == dtype
    mean, tril = linear_gaussian.posterior(model, x)
    assert mean.shape == (2, 3, 2) and tril.shape == (2, 2)
    for i in range(2):
        np.testing.assert_allclose(linear_gaussian.log_evidence(model, x[i, 1]), value[i, 1], rtol=1e-5)
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), model)
    both = jax.vmap(linear_gaussian.log_evidence)(models, x)
    np.testing.assert_allclose(both[0], value[0], rtol=1e-5)


def test_discrete_model_is_normalised_and_obeys_bayes(dtype):
    """256 outcomes of 8 bits: 1e-6 is ten float32 roundings of one."""
    tolerance = {jnp.float32: 1e-6, jnp.float64: 1e-12}[dtype]
    rng = np.random.RandomState(3)
    model = discrete.DiscreteMixture(
        jnp.asarray(rng.randn(3), dtype), jnp.asarray(2 * rng.randn(3, 8), dtype)
    )
    x = discrete.all_binary(8)
    assert len({tuple(row) for row in x.tolist()}) == 256
    log_p, log_joint = discrete.log_evidence(model, x), discrete.log_joint(model, x)
    assert float(jnp.exp(log_p).sum()) == pytest.approx(1, abs=tolerance)
    assert float(jnp.exp(log_joint).sum()) == pytest.approx(1, abs=tolerance)
    # Bayes' rule from probabilities, in NumPy
    bits, prior = np.asarray(x), np.exp(log_softmax(model.prior_logits))
    on = 1 / (1 + np.exp(-np.asarray(model.logits, np.float64)))
    joint = prior * np.where(bits[:, None, :] == 1, on, 1 - on).prod(-1)
    np.testing.assert_allclose(jnp.exp(log_joint), joint, rtol=20 * tolerance)
    np.testing.assert_allclose(jnp.exp(log_p), joint.sum(-1), rtol=20 * tolerance)
    expected = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(jnp.exp(discrete.posterior(model, x)), expected, rtol=20 * tolerance)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum())


def test_discrete_samples_of_data_and_latent_pass_chi_square():
    """48 outcomes of (x, z); false alarm 1e-4 for a fresh seed."""
    rng = np.random.RandomState(3)
    model = discrete.DiscreteMixture(jnp.asarray(rng.randn(3)), jnp.asarray(rng.randn(3, 4)))
    x, z = discrete.sample(model, jax.random.key(0), (50_000,))
    assert x.shape == (50_000, 4) and z.shape == (50_000,)
    codes = (np.asarray(x) @ [8, 4, 2, 1]).astype(int) * 3 + np.asarray(z)
    counts = np.bincount(codes, minlength=48)
    expected = np.exp(np.asarray(discrete.log_joint(model, discrete.all_binary(4)), np.float64)).ravel()
    assert expected.min() * 50_000 > 5
    assert scipy.stats.chisquare(counts, 50_000 * expected / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("dim", [0, -1, 21])
def test_enumeration_of_too_few_or_too_many_bits_is_refused(dim):
    with pytest.raises(ValueError, match=f"1 to 20 binary dimensions, got {dim}"):
        discrete.all_binary(dim)
