"""pPCA: four ways to its maximum of likelihood, the linear beta-VAE, reconstruction and coding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree
from sklearn.decomposition import PCA

from dlvm_jax.functional import linear_gaussian as lg
from tests.functional.common import checks
from tests.functional.test_linear_gaussian import by_singular_values, surplus

log_evidence, posterior, em_step, log_evidence_observed, reconstruct, posterior_mean_variance = map(
    jax.jit,
    (
        lg.log_evidence,
        lg.posterior,
        lg.ppca_em_step,
        lg.log_evidence_observed,
        lg.reconstruct,
        lg.posterior_mean_variance,
    ),
)
fit = jax.jit(lg.ppca_fit, static_argnums=1)
code, sample = jax.jit(lg.code, static_argnums=2), jax.jit(lg.sample, static_argnums=2)


def random(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def data(count=60, dim=8, seed=0):
    """Correlated data with a mean; the covariance has well-separated eigenvalues."""
    spectrum = 3.0 * 0.6 ** np.arange(dim)
    rotation = np.linalg.qr(random(seed + 1, dim, dim))[0]
    return random(seed, count, dim) * np.sqrt(spectrum) @ rotation + random(seed + 2, dim)


# --- the maximum of the likelihood ------------------------------------------------------------------------------------


@checks(lg.ppca_fit)
@pytest.mark.parametrize("count, dim, latent", [(60, 8, 3), (12, 30, 4), (9, 9, 7), (50, 2, 1)])
def test_closed_form_equals_eigendecomposition_of_the_covariance(count, dim, latent, x64):
    """Also with more dimensions than examples; the evidence by the dense Gaussian."""
    x = data(count, dim)
    model = fit(x, latent)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    sigma2 = values[: dim - latent].mean()
    top = vectors[:, dim - latent :]
    product = (top * (values[dim - latent :] - sigma2)) @ top.T
    np.testing.assert_allclose(model.w @ model.w.T, product, atol=1e-12)
    assert float(jnp.exp(2 * model.log_std)) == pytest.approx(sigma2, rel=1e-12)
    law = scipy.stats.multivariate_normal(x.mean(0), product + sigma2 * np.eye(dim))
    np.testing.assert_allclose(log_evidence(model, x), law.logpdf(x), rtol=1e-9, atol=1e-9)
    gram = model.w.T @ model.w
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12)


def test_score_equals_scikit_learn(x64):
    """scikit-learn estimates the covariance with 1 / (N - 1): the same model, wider by N / (N - 1)."""
    x, fresh = data(), data(seed=5)
    model = fit(x, 3)
    widen = 0.5 * np.log(60 / 59)
    model = model._replace(w=model.w * np.exp(widen), log_std=model.log_std + widen)
    pca = PCA(3, svd_solver="full").fit(x)
    np.testing.assert_allclose(log_evidence(model, fresh), pca.score_samples(fresh), rtol=1e-10)
    assert float(log_evidence(model, x).mean()) == pytest.approx(pca.score(x), rel=1e-12)


def start(dim, latent):
    """A model far from any optimum."""
    return lg.LinearGaussian(jnp.asarray(0.3 * random(9, dim, latent)), jnp.zeros(dim), jnp.zeros(()))


@checks(lg.ppca_em_step)
def test_em_rises_to_the_closed_form_and_stays_there(x64):
    """Never down by more than the rounding of a sum of 60 values of size 10."""
    x = data()
    best = fit(x, 3)
    peak = float(log_evidence(best, x).sum())
    model, values = start(8, 3), []
    for _ in range(150):
        values.append(float(log_evidence(model, x).sum()))
        model = em_step(model, x)
    assert np.diff(values).min() > -1e-10 and values[1] - values[0] > 10
    assert values[-1] == pytest.approx(peak, abs=1e-8)
    np.testing.assert_allclose(model.w @ model.w.T, best.w @ best.w.T, atol=1e-6)
    np.testing.assert_allclose(model.mean, best.mean, atol=1e-10)
    for ours, right in zip(em_step(best, x), best, strict=True):
        np.testing.assert_allclose(ours, right, atol=1e-12)


def test_em_with_nothing_missing_is_plain_em(x64):
    x = data()
    everything = np.ones(x.shape, bool)
    for ours, plain in zip(em_step(start(8, 3), x, everything), em_step(start(8, 3), x), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-12)
    np.testing.assert_allclose(
        log_evidence_observed(start(8, 3), x, everything), log_evidence(start(8, 3), x)
    )


def test_em_with_missing_entries_rises_to_a_stationary_point(x64):
    """Gradient 1e-7 after 1000 steps where it was 10 and more: a wrong expectation or weight would leave it large."""
    x, rng = data(), np.random.RandomState(4)
    observed = rng.rand(*x.shape) < 0.7
    observed[0] = False
    x = np.where(observed, x, np.nan)
    total = jax.jit(lambda model: lg.log_evidence_observed(model, x, observed).sum())
    step = jax.jit(lambda model, _: (lg.ppca_em_step(model, x, observed), total(model)))
    model, values = jax.lax.scan(step, start(8, 3), length=1000)
    assert np.diff(values).min() > -1e-10 and values[1] - values[0] > 10
    before, after = (
        max(float(jnp.abs(leaf).max()) for leaf in jax.grad(total)(m)) for m in (start(8, 3), model)
    )
    assert before > 10 and after < 1e-7


def test_coordinate_that_is_never_observed_keeps_its_parameters(x64):
    x = data()
    observed = np.ones(x.shape, bool)
    observed[:, 2] = False
    others = np.delete(np.arange(8), 2)
    model = em_step(start(8, 3), x, observed)
    np.testing.assert_array_equal(model.w[2], start(8, 3).w[2])
    small = start(8, 3)._replace(w=start(8, 3).w[others], mean=jnp.zeros(7))
    right = em_step(small, x[:, others])
    np.testing.assert_allclose(model.w[others], right.w, atol=1e-12)
    np.testing.assert_allclose(model.log_std, right.log_std, atol=1e-12)


@pytest.mark.parametrize("share", [1.0, 0.8])
def test_em_in_float32_never_falls_with_directions_to_spare(share):
    """From the truth, by the evidence in float64: covariances in place of their factors would lose tenths of a nat."""
    model, x = surplus(0.003, 100, dim=200, latent=20, rank=10)
    observed = np.random.RandomState(0).rand(*x.shape) <= share
    values = []
    for _ in range(6):
        w, mean, log_std = (np.asarray(leaf) for leaf in model)
        rows = zip(np.asarray(x), observed, strict=True)
        value = [by_singular_values((w[o], mean[o], log_std), row[None, o])[0] for row, o in rows]
        values.append(np.mean(value))
        model = em_step(model, x, None if share == 1 else observed)
    assert np.diff(values).min() > -1e-3 and values[-1] - values[0] > 1, np.diff(values)


def maximise(function, at):
    """L-BFGS from SciPy with our gradients; returns the parameters, the value and (parameters -> largest slope)."""
    flat, unravel = ravel_pytree(at)
    value_and_grad = jax.jit(jax.value_and_grad(lambda p: -function(unravel(p))))
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-9}
    done = scipy.optimize.minimize(
        value_and_grad, np.asarray(flat), jac=True, method="L-BFGS-B", options=options
    )
    return (
        unravel(jnp.asarray(done.x)),
        -done.fun,
        lambda at: np.abs(value_and_grad(ravel_pytree(at)[0])[1]).max(),
    )


def test_gradient_vanishes_at_the_closed_form_and_ascent_ends_there(x64):
    x = data()
    best = fit(x, 3)
    found, value, slope = maximise(lambda model: lg.log_evidence(model, x).mean(), start(8, 3))
    assert slope(best) < 1e-12 and slope(start(8, 3)) > 0.1
    assert value == pytest.approx(float(log_evidence(best, x).mean()), abs=1e-9)
    np.testing.assert_allclose(found.w @ found.w.T, best.w @ best.w.T, atol=1e-4)


def test_fit_and_em_in_float32_follow_float64():
    """Sums of 480 squares: evidence to 1e-5 of values of size 10."""
    x = data().astype(np.float32)
    single = em_step(fit(x, 3), x)
    values = log_evidence(single, x)
    assert values.dtype == np.float32
    with jax.enable_x64(True):
        truth = np.asarray(log_evidence(fit(x.astype(np.float64), 3), x.astype(np.float64)))
    np.testing.assert_allclose(values, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "x, latent, message",
    [
        (random(0, 20, 5), 5, "1 to 4 latent dimensions for data of 5, got 5"),
        (random(0, 20, 5), 0, "1 to 4 latent dimensions for data of 5, got 0"),
        (random(0, 20, 5, 2), 1, r"shape \[N, D\], got \(20, 5, 2\)"),
        (random(0, 4, 9), 3, "3 latent dimensions explain these 4 examples without noise"),
        (random(0, 20, 2) @ random(1, 2, 6), 2, "explain these 20 examples without noise"),
        (np.ones((20, 5)), 1, "explain these 20 examples without noise"),
        (np.full((20, 5), np.nan), 1, "needs finite data; with missing values use ppca_em_step"),
    ],
)
def test_impossible_fits_are_refused(x, latent, message):
    with pytest.raises(ValueError, match=message):
        lg.ppca_fit(x, latent)


# --- the linear VAE, reconstruction and coding ------------------------------------------------------------------------


@checks(lg.beta_vae_optimum)
@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_linear_beta_vae_optimum_is_found_by_direct_optimisation(beta, x64):
    """Over decoder, encoder and its full covariance, the beta-ELBO averaged over data in closed form.

    For beta = 1.5 the third unit collapses; singular values to 1e-4, where the value is flat to 1e-8.
    """
    eigenvalues, noise = np.array([0.2, 4.0, 0.6, 2.0, 0.3]), 0.5
    rotation = np.linalg.qr(random(0, 5, 5))[0]
    covariance = (rotation * eigenvalues) @ rotation.T

    def value(params):
        w, a, factor = params
        factor = jnp.tril(factor, -1) + jnp.diag(jnp.exp(jnp.diagonal(factor)))
        left = jnp.eye(5) - w @ a
        error = jnp.trace(left @ covariance @ left.T) + jnp.sum((w @ factor) ** 2)
        reconstruction = -0.5 * error / noise - 2.5 * jnp.log(2 * jnp.pi * noise)
        kl = jnp.sum(factor**2) + jnp.trace(a @ covariance @ a.T) - 3
        return reconstruction - beta * (0.5 * kl - jnp.sum(jnp.log(jnp.diagonal(factor))))

    (w, _, factor), reached, _ = maximise(
        value, tuple(map(jnp.asarray, (random(1, 5, 3), random(2, 3, 5), np.eye(3))))
    )
    optimum = lg.beta_vae_optimum(jnp.asarray(eigenvalues), 3, 0.5 * np.log(noise), beta)
    squares, variances = map(np.asarray, optimum)
    assert (squares == 0).sum() == {0.5: 0, 1.0: 0, 1.5: 1}[beta]
    np.testing.assert_allclose(np.linalg.svd(w)[1] ** 2, squares, atol=1e-4)
    factor = np.tril(factor, -1) + np.diag(np.exp(np.diag(factor)))
    np.testing.assert_allclose(np.linalg.eigvalsh(factor @ factor.T), variances, atol=1e-4)
    axes = rotation[:, np.argsort(-eigenvalues)[:3]]
    a = (variances * np.sqrt(squares) / (beta * noise))[:, None] * axes.T
    ours = value((axes * np.sqrt(squares), a, jnp.diag(0.5 * jnp.log(variances))))
    assert float(ours) == pytest.approx(reached, abs=1e-8)


def test_linear_vae_with_beta_one_is_ppca(x64):
    x = data()
    model = fit(x, 3)
    optimum = lg.beta_vae_optimum(jnp.linalg.eigvalsh(np.cov(x.T, bias=True)), 3, model.log_std)
    np.testing.assert_allclose(optimum.squared_singular_values, jnp.sum(model.w**2, axis=0), rtol=1e-11)
    np.testing.assert_allclose(
        optimum.posterior_variance, jnp.diagonal(posterior(model, x)[1]) ** 2, rtol=1e-11
    )


def test_impossible_linear_vaes_are_refused():
    with pytest.raises(ValueError, match="1 to 4 latent dimensions for data of 4, got 5"):
        lg.beta_vae_optimum(jnp.ones(4), 5, 0.0)
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        lg.beta_vae_optimum(jnp.ones(4), 2, 0.0, beta=0.0)
    swept = jax.vmap(lambda beta: lg.beta_vae_optimum(jnp.arange(1.0, 5.0), 1, 0.0, beta))(
        jnp.array([1.0, 3.0])
    )
    np.testing.assert_allclose(swept.squared_singular_values, [[3], [1]], rtol=1e-6)


@checks(lg.posterior_mean_variance)
def test_active_units_in_theory_and_in_draws(x64):
    """Variances of 100,000 posterior means within five standard errors v sqrt(2/n); false alarm 5e-6 in all."""
    eigenvalues, draws = np.array([5.0, 3, 2, 1.5, 1.2, 1.1, 1.02, 1.005]), 100_000
    axes = np.linalg.qr(random(0, 12, 12))[0][:, :8]
    model = lg.LinearGaussian(jnp.asarray(axes * np.sqrt(eigenvalues - 1)), jnp.zeros(12), jnp.zeros(()))
    theory = posterior_mean_variance(model)
    np.testing.assert_allclose(theory, (eigenvalues - 1) / eigenvalues, atol=1e-12)
    means = posterior(model, sample(model, jax.random.key(0), (draws,))[0])[0]
    assert (np.abs(means.var(0) / theory - 1) < 5 * np.sqrt(2 / draws)).all()
    assert int((theory > 0.01).sum()) == int((means.var(0) > 0.01).sum()) == 7
    np.testing.assert_array_equal(theory > 0.01, eigenvalues > 1 / 0.99)


@checks(lg.reconstruct)
def test_reconstruction_is_the_best_of_its_rank(x64):
    x = data()
    model = fit(x, 3)
    ours = reconstruct(model, x)
    left_out = np.linalg.eigvalsh(np.cov(x.T, bias=True))[:5].sum()
    assert float(((x - ours) ** 2).sum(1).mean()) == pytest.approx(left_out, rel=1e-12)
    pca = PCA(3, svd_solver="full").fit(x)
    np.testing.assert_allclose(ours, pca.inverse_transform(pca.transform(x)), atol=1e-12)
    decoded = posterior(model, x)[0] @ model.w.T + model.mean
    assert ((x - decoded) ** 2).sum() > 1.001 * ((x - ours) ** 2).sum()
    collapsed = model._replace(w=model.w.at[:, 2].set(0))
    np.testing.assert_allclose(reconstruct(collapsed, x), reconstruct(fit(x, 2), x), atol=1e-12)


@checks(lg.code)
def test_code_rate_is_that_of_the_quantised_gaussian(x64):
    x, model = data(), fit(data(), 3)
    eigenvalues = jnp.sum(model.w**2, axis=0) + jnp.exp(2 * model.log_std)
    coded = code(model, x, 0.3)
    np.testing.assert_array_equal(jax.jit(lg.code)(model, x, 0.3).codes, coded.codes)
    np.testing.assert_array_equal(np.abs(coded.codes), np.abs(np.round(posterior(model, x)[0] / 0.3)))
    tau = np.sqrt(np.sum(model.w**2, axis=0) / eigenvalues)
    cdf = scipy.stats.norm(0, tau).cdf
    expected = -np.log(cdf((coded.codes + 0.5) * 0.3) - cdf((coded.codes - 0.5) * 0.3)).sum(1)
    np.testing.assert_allclose(coded.rate, expected, rtol=1e-10)


def test_code_refines_to_the_reconstruction_and_does_not_see_rotations(x64):
    """The rate grows by log 2 a unit for each halving, to the second order in the step."""
    x = np.asarray(sample(fit(data(), 3), jax.random.key(0), (2000,))[0])
    model = fit(x, 3)
    coarse, fine, finest = (code(model, x, step) for step in (1.0, 0.01, 0.005))
    errors = [float(((x - c.reconstruction) ** 2).sum(1).mean()) for c in (coarse, fine)]
    floor = float(((x - reconstruct(model, x)) ** 2).sum(1).mean())
    assert floor < errors[1] < floor + 1e-3 < errors[0]
    assert float((finest.rate - fine.rate).mean()) == pytest.approx(3 * np.log(2), abs=1e-4)
    rotated = model._replace(w=model.w @ np.linalg.qr(random(6, 3, 3))[0])
    again = code(rotated, x, 1.0)
    np.testing.assert_allclose(again.reconstruction, coarse.reconstruction, atol=1e-10)
    np.testing.assert_allclose(again.rate, coarse.rate, atol=1e-10)


def test_collapsed_units_cost_nothing():
    model = lg.LinearGaussian(jnp.eye(4)[:, :2] * jnp.array([2.0, 0.0]), jnp.zeros(4), jnp.float32(0))
    both, one = (code(m, jnp.ones((1, 4)), 0.1) for m in (model, model._replace(w=model.w[:, :1])))
    np.testing.assert_allclose(both.rate, one.rate, rtol=1e-6)
    np.testing.assert_allclose(both.reconstruction, one.reconstruction, rtol=1e-6)
    with pytest.raises(ValueError, match="quantisation step is positive, got 0"):
        code(model, jnp.ones((1, 4)), 0)
