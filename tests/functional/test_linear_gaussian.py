"""Evidence, posterior and samples of the linear-Gaussian model, against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.functional import linear_gaussian as lg
from tests.functional.common import checks
from tests.functional.test_conditioning import condition, gaussian_posterior

log_evidence, posterior, log_evidence_observed = map(
    jax.jit, (lg.log_evidence, lg.posterior, lg.log_evidence_observed)
)
sample = jax.jit(lg.sample, static_argnums=2)


def random(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def linear_model(dim, latent, log_std=-0.7, seed=3):
    rng = np.random.RandomState(seed)
    return lg.LinearGaussian(*map(jnp.asarray, (rng.randn(dim, latent), rng.randn(dim), log_std)))


def dense(model):
    """Mean and covariance of the joint of (x, z), by the definition of the model."""
    w, sigma2 = np.asarray(model.w, np.float64), np.exp(2 * float(model.log_std))
    dim, latent = w.shape
    mean = np.concatenate([np.asarray(model.mean, np.float64), np.zeros(latent)])
    return mean, np.block([[w @ w.T + sigma2 * np.eye(dim), w], [w.T, np.eye(latent)]])


@checks(lg.log_evidence)
@pytest.mark.parametrize("dim, latent", [(5, 2), (3, 3), (2, 4), (1, 1), (40, 6)])
def test_evidence_equals_scipy(dim, latent, x64):
    """1e-9 of values of up to a thousand: SciPy's eigendecomposition of C has condition number up to 1e5."""
    x = 2 * random(1, 7, dim)
    for log_std in (-3.0, -0.7, 1.5):
        model = linear_model(dim, latent, log_std)
        mean, joint = dense(model)
        expected = scipy.stats.multivariate_normal(mean[:dim], joint[:dim, :dim]).logpdf(x)
        np.testing.assert_allclose(log_evidence(model, x), expected, rtol=1e-9, atol=1e-9)


def is_posterior(model, x, mean, covariance):
    """Whether these are the conditional of the joint Gaussian, computed without the M x M identity."""
    right_mean, right = condition(*dense(model), np.arange(model.w.shape[0]), x)
    # subtracting from the identity leaves 1e-16 times a condition number of 1e5
    return np.allclose(mean, right_mean, atol=1e-9) and np.allclose(covariance, right, atol=1e-9)


@checks(lg.posterior)
@pytest.mark.parametrize("dim, latent", [(5, 2), (3, 3), (2, 4), (40, 6)])
def test_posterior_equals_conditioning_the_joint(dim, latent, x64):
    model, x = linear_model(dim, latent), random(1, 7, dim)
    mean, factor = posterior(model, x)
    assert is_posterior(model, x, mean, factor @ factor.T)
    np.testing.assert_array_equal(factor, jnp.tril(factor))
    assert (jnp.diagonal(factor) > 0).all()
    identity, offset = jnp.eye(latent), jnp.zeros(latent)
    general = identity, model.w, model.mean, jnp.exp(model.log_std) * jnp.eye(dim)
    for ours, other in zip((mean, factor), gaussian_posterior(offset, *general, x), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-10)


def test_misprinted_formulas_would_fail(x64):
    r"""The precision $\sigma^{-2}M$ in place of the covariance, and $\sigma^{-1}I$ in place of $\sigma^{-2}I$ in $C^{-1}$."""
    model, x = linear_model(5, 2), random(1, 7, 5)
    w, sigma2 = np.asarray(model.w), np.exp(2 * float(model.log_std))
    m = w.T @ w + sigma2 * np.eye(2)
    mean = posterior(model, x)[0]
    assert is_posterior(model, x, mean, sigma2 * np.linalg.inv(m))
    assert not is_posterior(model, x, mean, m / sigma2)
    joint = dense(model)[1]
    for power, right in ((1.0, True), (0.5, False)):
        inverse = np.eye(5) / sigma2**power - w @ np.linalg.inv(m) @ w.T / sigma2
        assert np.allclose(inverse @ joint[:5, :5], np.eye(5), atol=1e-9) is right
        centred = x - np.asarray(model.mean)
        square = np.einsum("nd,de,ne->n", centred, inverse, centred)
        value = -0.5 * (square + np.linalg.slogdet(2 * np.pi * joint[:5, :5])[1])
        assert np.allclose(log_evidence(model, x), value, rtol=1e-9) is right


@pytest.mark.parametrize("log_std", [0.0, -3.0, -6.0])
def test_evidence_in_float32_survives_small_noise(log_std):
    """Rounding of x moves it by eps |x| / sigma standard deviations, with a slope of about sqrt(D): 5 of each."""
    single = jax.tree.map(jnp.float32, linear_model(20, 3, log_std))
    x = sample(single, jax.random.key(0), (50,))[0]
    ours = log_evidence(single, x)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (single, x))
        truth = np.asarray(log_evidence(*double))
    slack = 25 * 1.2e-7 * np.sqrt(20) * float(np.abs(x).max()) * np.exp(-log_std)
    np.testing.assert_allclose(ours, truth, rtol=1e-6, atol=max(slack, 1e-5))


def surplus(sigma, count, dim=300, latent=30, rank=12):
    """A model in float32 whose W has directions to spare, rotated into every column, and examples of it."""
    w = random(0, dim, rank) @ np.linalg.qr(random(1, latent, latent))[0][:rank]
    model = jax.tree.map(jnp.float32, lg.LinearGaussian(w, random(2, dim), np.log(sigma)))
    return model, sample(model, jax.random.key(0), (count,))[0]


def by_singular_values(model, x):
    """In float64, from W = U diag(s) V^T: log-evidence, the gradient of its mean, posterior means and covariance."""
    w, mean, log_std = (np.asarray(leaf, np.float64) for leaf in model)
    u, s, v = np.linalg.svd(w, full_matrices=False)
    noise, centred = np.exp(2 * log_std), np.asarray(x, np.float64) - mean
    total = s**2 + noise
    white = centred @ u / total @ u.T + (centred - centred @ u @ u.T) / noise  # C^-1 (x - mu)
    left = len(w) - len(s)
    log_det = np.log(2 * np.pi * total).sum() + left * np.log(2 * np.pi * noise)
    value = -0.5 * ((white * centred).sum(1) + log_det)
    slope_w = white.T @ (white @ w) / len(x) - u * (s / total) @ v
    slope = noise * ((white**2).sum(1).mean() - (1 / total).sum() - left / noise)
    gradient = lg.LinearGaussian(slope_w, white.mean(0), slope)
    return value, gradient, centred @ u * (s / total) @ v, np.eye(v.shape[1]) - v.T * (s**2 / total) @ v


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.001])
def test_directions_to_spare_cost_no_digits(sigma):
    r"""In float32, where $W^\top W+\sigma^2I$ has lost $\sigma^2$ (errors of 28 nats, .004 and NaN).

    What rounding of x and W makes of each: 1e-7 of sums of 300 products of size 10, over sigma.
    """
    model, x = surplus(sigma, 100)
    value, gradient, mean, covariance = by_singular_values(model, x)
    np.testing.assert_allclose(log_evidence(model, x), value, atol=1e-4 / sigma)
    assert float(log_evidence(model, x).mean()) == pytest.approx(value.mean(), abs=1e-5 / sigma)
    ours = jax.jit(jax.grad(lambda m: lg.log_evidence(m, x).mean()))(model)
    for one, right in zip(ours, gradient, strict=True):
        np.testing.assert_allclose(one, right, atol=1e-5 / sigma * max(1, np.abs(right).max()))
    ours_mean, factor = posterior(model, x)
    np.testing.assert_allclose(ours_mean, mean, atol=1e-4 / sigma)
    np.testing.assert_allclose(factor @ factor.T, covariance, atol=1e-5 / sigma)
    spread = lg.posterior_mean_variance(model)
    np.testing.assert_allclose(spread, 1 - np.diag(covariance), atol=1e-5)


@checks(lg.sample)
def test_samples_have_the_right_moments(x64):
    """Every entry of mean and covariance of (x, z) within five standard errors; false alarm 6e-7 each, 1e-5 in all."""
    model, draws = linear_model(3, 2), 100_000
    joint = np.concatenate(sample(model, jax.random.key(0), (draws,)), axis=1)
    mean, covariance = dense(model)
    variance = np.diag(covariance)
    assert (np.abs(joint.mean(0) - mean) < 5 * np.sqrt(variance / draws)).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / draws)
    assert (np.abs(np.cov(joint.T) - covariance) < 5 * error).all()


def test_batches_of_models_and_data(dtype):
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), linear_model(4, 2))
    x = jnp.asarray(random(1, 2, 3, 4), dtype)
    value = log_evidence(model, x)
    assert value.shape == (2, 3) and value.dtype == dtype
    mean, factor = posterior(model, x)
    assert mean.shape == (2, 3, 2) and factor.shape == (2, 2) and factor.dtype == dtype
    for i in range(2):
        np.testing.assert_allclose(log_evidence(model, x[i, 1]), value[i, 1], rtol=1e-5)
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), model)
    both = jax.jit(jax.vmap(lg.log_evidence))(models, x)
    np.testing.assert_allclose(both[0], value[0], rtol=1e-5)


@checks(lg.log_evidence_observed)
def test_evidence_of_observed_coordinates_equals_scipy(x64):
    model, x = linear_model(6, 2), random(1, 20, 6)
    observed = np.random.RandomState(2).rand(20, 6) < 0.6
    observed[0], observed[1] = False, True
    mean, covariance = dense(model)
    expected = [0.0] + [
        scipy.stats.multivariate_normal(mean[:6][o], covariance[:6, :6][np.ix_(o, o)]).logpdf(row[o])
        for row, o in zip(x[1:], observed[1:], strict=True)
    ]
    ours = log_evidence_observed(model, np.where(observed, x, np.nan), observed)
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)
    gradient = jax.grad(lambda m: log_evidence_observed(m, np.where(observed, x, np.nan), observed).sum())(
        model
    )
    assert all(np.isfinite(leaf).all() for leaf in gradient)
