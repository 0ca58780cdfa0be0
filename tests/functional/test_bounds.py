"""Bounds against exact evidence: a linear-Gaussian model and an enumerated discrete one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import discrete, linear_gaussian
from dlvm_jax.functional import bounds, densities, divergences

RNG = np.random.RandomState(0)
MODEL = linear_gaussian.LinearGaussian(RNG.randn(6, 3) * 0.8, RNG.randn(6), np.float64(-0.4))


def as_dtype(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def log_weights(model, x, z, log_posterior):
    log_lik = densities.normal_log_prob(x, z @ model.w.T + model.mean, model.log_std)
    log_prior = densities.normal_log_prob(z, 0.0, 0.0)
    return log_lik, log_prior, log_posterior


def wide_posterior(model, x, spread):
    """The exact posterior with its covariance scaled by `spread`: L_1 = log p - (M/2)(s - 1 - log s) in closed form."""
    mean, tril = linear_gaussian.posterior(model, x)
    return mean, tril * jnp.sqrt(spread)


def draw(model, x, key, samples, spread):
    mean, tril = wide_posterior(model, x, spread)
    z = densities.multivariate_normal_sample(key, mean, tril, (samples,))
    return log_weights(model, x, z, densities.multivariate_normal_log_prob(z, mean, tril))


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.float64, 1e-12)])
def test_every_single_sample_gives_the_evidence_at_the_exact_posterior(dtype, tolerance):
    """Relative to |log p|, about 10 nats here: a few units in the last place of the summed squares."""
    with jax.enable_x64(dtype is jnp.float64):
        model = as_dtype(MODEL, dtype)
        x, _ = linear_gaussian.sample(model, jax.random.key(0), (20,))
        parts = draw(model, x, jax.random.key(1), 50, 1.0)
        truth = linear_gaussian.log_evidence(model, x)
        np.testing.assert_allclose(
            bounds.log_weight(*parts), jnp.broadcast_to(truth, (50, 20)), rtol=tolerance, atol=10 * tolerance
        )
        np.testing.assert_allclose(bounds.elbo_sampled(*parts), truth, rtol=tolerance, atol=10 * tolerance)
        exact = bounds.evidence(bounds.log_weight(*parts))
        assert (exact.standard_error < 1e-3).all() and (exact.effective_sample_size > 49.9).all()


def test_elbo_has_its_closed_form_gap_and_never_exceeds_the_evidence(x64):
    """Five standard errors, false alarm 6e-7 an estimator."""
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), (4,))
    truth = linear_gaussian.log_evidence(MODEL, x)
    for spread in (0.3, 2.5):
        log_lik, log_prior, log_posterior = draw(MODEL, x, jax.random.key(1), 100_000, spread)
        expected = truth - 1.5 * (spread - 1 - np.log(spread))
        mean, tril = wide_posterior(MODEL, x, spread)
        kl = divergences.kl_multivariate_normal(mean, tril, jnp.zeros(3), jnp.eye(3))
        for one in (log_lik - log_posterior + log_prior, log_lik - kl):
            error = one.std(0) / np.sqrt(len(one))
            assert (np.abs(one.mean(0) - expected) < 5 * error).all()
        np.testing.assert_allclose(bounds.elbo(log_lik, kl), (log_lik - kl).mean(0), rtol=1e-12)
        assert (expected < truth).all()


def test_importance_weighted_bound_rises_to_the_evidence(x64):
    """Means over 20,000 repetitions; each rise is many standard errors (asserted: five)."""
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), ())
    truth = float(linear_gaussian.log_evidence(MODEL, x))
    log_w = bounds.log_weight(*draw(MODEL, x, jax.random.key(1), 20_000 * 50, 2.0)).reshape(50, 20_000)
    values, errors = [], []
    for k in (1, 2, 5, 50):
        bound = bounds.importance_weighted(log_w[:k])
        values.append(float(bound.mean()))
        errors.append(float(bound.std() / np.sqrt(bound.size)))
    assert values[0] == pytest.approx(truth - 1.5 * (1 - np.log(2)), abs=5 * errors[0])
    assert all(
        b - a > 5 * np.hypot(ea, eb)
        for a, b, ea, eb in zip(values, values[1:], errors, errors[1:], strict=False)
    )
    assert values[-1] < truth and truth - values[-1] < 0.05 * (truth - values[0])


def test_exact_expectation_of_the_bound_by_enumeration(x64):
    """E[L_K] over all K-tuples of a discrete latent: monotone in K, below the evidence, and E[w] = p(x)."""
    model = discrete.DiscreteMixture(jnp.array([0.5, -0.2, 0.1]), jnp.asarray(RNG.randn(3, 4)))
    x = jnp.array([1.0, 0.0, 1.0, 1.0])
    log_q = jax.nn.log_softmax(jnp.array([0.3, 0.4, -1.0]))
    log_w = discrete.log_joint(model, x) - log_q
    truth = float(discrete.log_evidence(model, x))
    assert float(jnp.sum(jnp.exp(log_q + log_w))) == pytest.approx(np.exp(truth), rel=1e-12)
    expected = []
    for k in (1, 2, 3, 5):
        tuples = np.array(list(itertools.product(range(3), repeat=k))).T
        expected.append(
            float(jnp.sum(jnp.exp(log_q[tuples].sum(0)) * bounds.importance_weighted(log_w[tuples])))
        )
    assert expected == sorted(expected) and len(set(expected)) == 4
    assert expected[-1] < truth and truth - expected[-1] < 0.3 * (truth - expected[0])


def test_analytic_kl_inside_the_weight_exceeds_the_evidence(x64):
    """Why importance weighting refuses a "bound": with log p(x|z) - KL as the weight it is no lower bound."""
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), ())
    mean, tril = wide_posterior(MODEL, x, 3.0)
    log_lik, _, _ = draw(MODEL, x, jax.random.key(1), 100_000, 3.0)
    kl = divergences.kl_multivariate_normal(mean, tril, jnp.zeros(3), jnp.eye(3))
    assert (
        float(bounds.importance_weighted(log_lik - kl)) > float(linear_gaussian.log_evidence(MODEL, x)) + 0.5
    )


def test_naive_evidence_is_near_the_truth_and_biased_low(x64):
    """E exp is unbiased: five standard errors; the mean of logs of small samples lies below."""
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(2), ())
    truth = float(linear_gaussian.log_evidence(MODEL, x))
    z = jax.random.normal(jax.random.key(3), (200_000, 3))
    log_lik = densities.normal_log_prob(x, z @ MODEL.w.T + MODEL.mean, MODEL.log_std)
    error = float(bounds.evidence(log_lik).standard_error)
    assert abs(float(bounds.naive_evidence(log_lik)) - truth) < 5 * error
    assert float(bounds.naive_evidence(log_lik.reshape(20, -1)).mean()) < truth - 0.1


def log_w_of(params, x, eps, held=None):
    """Log-weights of a mean-field posterior (mean, log_std); `held` replaces the parameters inside log q."""
    model, mean, log_std = params
    z = densities.reparameterise(eps, mean, log_std)
    q = held or (mean, log_std)
    return bounds.log_weight(*log_weights(model, x, z, densities.normal_log_prob(z, *q)))


def dreg_of(params, x, eps):
    model, mean, log_std = params
    held = jax.lax.stop_gradient((mean, log_std))

    def weight(z):
        return bounds.log_weight(*log_weights(model, x, z, densities.normal_log_prob(z, *held)))

    return bounds.dreg(weight, densities.reparameterise(eps, mean, log_std))


def test_gradients_equal_weight_averages_and_central_differences(x64):
    model = as_dtype(MODEL, jnp.float64)
    x, _ = linear_gaussian.sample(model, jax.random.key(0), ())
    params = (model, jnp.full(3, 0.2), jnp.full(3, -0.5))
    eps = jax.random.normal(jax.random.key(1), (16, 3))
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    functions = {
        "iwae": lambda p: bounds.importance_weighted(log_w_of(unravel(p), x, eps)),
        "renyi": lambda p: bounds.renyi(log_w_of(unravel(p), x, eps), 0.5),
        "elbo": lambda p: bounds.elbo_sampled(
            *log_weights(unravel(p)[0], x, eps, densities.normal_log_prob(eps, 0.1, 0.0)), 3.0
        ),
    }
    for function in functions.values():
        ours = jax.grad(function)(flat)
        steps = 1e-6 * jnp.eye(len(flat))
        numeric = (jax.vmap(function)(flat + steps) - jax.vmap(function)(flat - steps)) / 2e-6
        np.testing.assert_allclose(ours, numeric, atol=1e-7)
    jacobian = jax.jacrev(lambda p: log_w_of(unravel(p), x, eps))(flat)
    weights = jax.nn.softmax(log_w_of(params, x, eps))
    np.testing.assert_allclose(jax.grad(functions["iwae"])(flat), weights @ jacobian, rtol=1e-10)


@pytest.mark.parametrize("samples", [1, 16, 64])
def test_dreg_has_the_same_expected_gradient_with_less_variance(samples, x64):
    """Posterior gradients over 20,000 repetitions agree within five standard errors (false alarm 4e-6 over six entries)."""
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), ())
    mean, tril = linear_gaussian.posterior(MODEL, x)
    params = (as_dtype(MODEL, jnp.float64), mean + 0.2, jnp.log(jnp.diagonal(tril)) + 0.2)
    eps = jax.random.normal(jax.random.key(1), (20_000, samples, 3))

    def posterior_gradient(function):
        gradient = jax.grad(lambda q, e: function((params[0], *q), x, e))
        return jnp.concatenate(jax.jit(jax.vmap(lambda e: gradient(params[1:], e)))(eps), axis=-1)

    plain = posterior_gradient(lambda p, x, e: bounds.importance_weighted(log_w_of(p, x, e)))
    double = posterior_gradient(dreg_of)
    difference = plain - double
    assert (np.abs(difference.mean(0)) < 5 * difference.std(0) / np.sqrt(len(eps))).all()
    assert (double.var(0) < plain.var(0)).all()
    if samples == 64:
        assert (double.var(0) < 0.2 * plain.var(0)).all()


def test_dreg_value_and_model_gradient_are_those_of_the_plain_bound(x64):
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), ())
    params = (as_dtype(MODEL, jnp.float64), jnp.full(3, 0.2), jnp.full(3, -0.5))
    eps = jax.random.normal(jax.random.key(1), (16, 3))
    plain = jax.value_and_grad(lambda p: bounds.importance_weighted(log_w_of(p, x, eps)))(params)
    double = jax.value_and_grad(lambda p: dreg_of(p, x, eps))(params)
    assert float(plain[0]) == pytest.approx(float(double[0]), abs=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), plain[1][0], double[1][0])


def test_renyi_joins_elbo_and_importance_weighting_and_falls_with_alpha():
    log_w = jax.random.normal(jax.random.key(0), (30, 5)) * 2
    np.testing.assert_allclose(bounds.renyi(log_w, 1.0), log_w.mean(0), rtol=1e-6)
    np.testing.assert_allclose(bounds.renyi(log_w, 0.0), bounds.importance_weighted(log_w), rtol=1e-6)
    np.testing.assert_allclose(bounds.renyi(log_w, 1 + 1e-3), log_w.mean(0), atol=0.02)
    values = np.array([bounds.renyi(log_w, a) for a in (-1.0, 0.0, 0.5, 1.0, 2.0)])
    assert (np.diff(values, axis=0) < 0).all()


def test_beta_elbo_weighs_the_kl():
    np.testing.assert_allclose(bounds.elbo(jnp.array([[-3.0], [-1.0]]), jnp.array([0.5]), 4.0), [-4.0])
    parts = jnp.array([-3.0]), jnp.array([-2.0]), jnp.array([-1.5])
    assert float(bounds.elbo_sampled(*parts, 4.0)) == pytest.approx(-3.0 - 4 * 0.5)


@pytest.mark.parametrize("offset", [0.0, -500.0, 500.0, -1e5])
def test_running_sums_equal_all_at_once_at_any_magnitude(offset):
    log_w = offset + 3 * jax.random.normal(jax.random.key(0), (60, 4))
    log_w = log_w.at[7].set(-jnp.inf).at[:20, 2].set(-jnp.inf)
    weights = bounds.empty_weights((4,))
    for part in jnp.split(log_w, 6):
        weights = bounds.accumulate(weights, part)
    chunked, whole = bounds.summarise(weights), bounds.evidence(log_w)
    reference = np.asarray(log_w, np.float64)
    top = reference.max(0)
    scaled = np.exp(reference - top)
    expected = top + np.log(scaled.mean(0))
    # one unit in the last place of an offset of 1e5 is 8e-3
    np.testing.assert_allclose(chunked.log_evidence, expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(chunked.log_evidence, whole.log_evidence, rtol=1e-6)
    ess = scaled.sum(0) ** 2 / (scaled**2).sum(0)
    tolerance = 1e-4 if abs(offset) < 1e4 else 0.05
    np.testing.assert_allclose(chunked.effective_sample_size, ess, rtol=tolerance)
    error = scaled.std(0, ddof=1) / np.sqrt(60) / scaled.mean(0)
    np.testing.assert_allclose(chunked.standard_error, error, rtol=tolerance)


def test_evidence_standard_error_covers_the_truth():
    """400 estimates of log-normal weights (variance of w 0.28): 95 % interval covers 95 % within 5 binomial deviations."""
    log_w = 0.5 * jax.random.normal(jax.random.key(0), (1000, 400)) - 0.125
    estimate = bounds.evidence(log_w)
    covered = np.mean(np.abs(estimate.log_evidence) < 1.96 * estimate.standard_error)
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 400)
