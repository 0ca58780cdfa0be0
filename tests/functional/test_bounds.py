"""Bounds against exact evidence: a linear-Gaussian model and an enumerated discrete one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import discrete, linear_gaussian
from dlvm_jax.functional import bounds, divergences
from tests.functional.common import LINEAR, cast, checks, draw_parts, parts, widened_posterior


def one_datum(model=LINEAR, seed=0):
    x, _ = linear_gaussian.sample(model, jax.random.key(seed), ())
    return x, float(linear_gaussian.log_evidence(model, x))


@checks(bounds.log_weight)
def test_every_sample_gives_the_evidence_at_the_exact_posterior(dtype):
    """1e-5 in float32 relative to |log p| of about 10 nats: a few units in the last place of the summed squares."""
    tolerance = {jnp.float32: 1e-5, jnp.float64: 1e-12}[dtype]
    model = cast(LINEAR, dtype)
    x, _ = linear_gaussian.sample(model, jax.random.key(0), (20,))
    sampled = draw_parts(model, x, jax.random.key(1), 50, 1.0)
    truth = linear_gaussian.log_evidence(model, x)

    def is_truth(value):
        np.testing.assert_allclose(
            value, jnp.broadcast_to(truth, value.shape), rtol=tolerance, atol=tolerance
        )

    log_w = bounds.log_weight(*sampled)
    is_truth(log_w)
    is_truth(bounds.elbo_sampled(*(part[:1] for part in sampled)))
    is_truth(bounds.elbo_sampled(*sampled))
    for k in (1, 50):
        is_truth(bounds.importance_weighted(log_w[:k]))
    is_truth(bounds.renyi(log_w, 0.5))
    exact = bounds.evidence(log_w)
    is_truth(exact.log_evidence)
    assert (exact.standard_error < 1e-3).all() and (exact.effective_sample_size > 49.9).all()


@checks(bounds.elbo, bounds.elbo_sampled)
@pytest.mark.parametrize("spread", [0.3, 1.0, 2.5])
def test_elbo_is_the_evidence_less_the_kl_from_the_posterior(spread, x64):
    """Five standard errors, false alarm 6e-7 for each of eight estimates; expectations lie below log p exactly."""
    x, _ = linear_gaussian.sample(LINEAR, jax.random.key(0), (4,))
    truth = linear_gaussian.log_evidence(LINEAR, x)
    log_lik, log_prior, log_posterior = draw_parts(LINEAR, x, jax.random.key(1), 50_000, spread)
    mean, tril = widened_posterior(LINEAR, x, spread)
    expected = truth - 1.5 * (spread - 1 - np.log(spread))
    gap = divergences.kl_multivariate_normal(mean, tril, *linear_gaussian.posterior(LINEAR, x))
    np.testing.assert_allclose(truth - gap, expected, rtol=1e-12)
    assert (expected < truth).all() or spread == 1
    kl = divergences.kl_multivariate_normal(mean, tril, jnp.zeros(3), jnp.eye(3))
    for one, value in (
        (log_lik - log_posterior + log_prior, bounds.elbo_sampled(log_lik, log_prior, log_posterior)),
        (log_lik - kl, bounds.elbo(log_lik, kl)),
    ):
        error = one.std(0) / np.sqrt(len(one))
        assert (np.abs(value - expected) <= 5 * error + 1e-12).all()


def test_importance_weighted_bound_rises_to_the_evidence(x64):
    """Means over 10,000 repetitions; each rise exceeds five standard errors; a wrong sign or a lost 1/K cannot pass."""
    x, truth = one_datum()
    log_w = bounds.log_weight(*draw_parts(LINEAR, x, jax.random.key(1), 10_000 * 50, 2.0)).reshape(50, 10_000)
    bound = [bounds.importance_weighted(log_w[:k]) for k in (1, 2, 5, 50)]
    values = [float(b.mean()) for b in bound]
    errors = [float(b.std() / 100) for b in bound]
    assert values[0] == pytest.approx(truth - 1.5 * (1 - np.log(2)), abs=5 * errors[0])
    rises = zip(values, values[1:], errors, errors[1:], strict=False)
    assert all(b - a > 5 * np.hypot(ea, eb) for a, b, ea, eb in rises)
    assert values[-1] < truth and truth - values[-1] < 0.05 * (truth - values[0])
    everything = bounds.evidence(log_w.ravel())
    assert abs(float(everything.log_evidence) - truth) < 5 * float(everything.standard_error) < 0.01


@checks(bounds.importance_weighted)
def test_exact_expectation_of_the_bound_by_enumeration(x64):
    """E[L_K] over all K-tuples of a discrete latent: monotone in K, below the evidence, and E[w] = p(x)."""
    rng = np.random.RandomState(0)
    model = discrete.DiscreteMixture(jnp.array([0.5, -0.2, 0.1]), jnp.asarray(rng.randn(3, 4)))
    x = jnp.array([1.0, 0.0, 1.0, 1.0])
    q = np.asarray(jax.nn.softmax(jnp.array([0.3, 0.4, -1.0])))
    log_w = np.asarray(discrete.log_joint(model, x)) - np.log(q)
    truth = float(discrete.log_evidence(model, x))
    assert float(q @ np.exp(log_w)) == pytest.approx(np.exp(truth), rel=1e-12)
    expected, average = [], []
    for k in (1, 2, 3, 5, 7):
        tuples = np.array(list(itertools.product(range(3), repeat=k))).T
        probability = q[tuples].prod(0)
        bound = np.asarray(bounds.importance_weighted(log_w[tuples]))
        expected.append(float(probability @ bound))
        average.append(float(probability @ np.exp(bound)))
    gap = float(divergences.kl_categorical(np.log(q)[None], discrete.posterior(model, x)[None]))
    assert expected[0] == pytest.approx(truth - gap, rel=1e-12)
    np.testing.assert_allclose(average, np.exp(truth), rtol=1e-12)
    assert (np.diff(expected) > 1e-4).all() and expected[-1] < truth
    assert truth - expected[-1] < 0.2 * (truth - expected[0])


def test_analytic_kl_inside_the_weight_exceeds_the_evidence(x64):
    """Why importance weighting refuses a "bound": with log p(x|z) - KL as the weight it is no lower bound."""
    x, truth = one_datum()
    mean, tril = widened_posterior(LINEAR, x, 3.0)
    log_lik, _, _ = draw_parts(LINEAR, x, jax.random.key(1), 50_000, 3.0)
    kl = divergences.kl_multivariate_normal(mean, tril, jnp.zeros(3), jnp.eye(3))
    assert float(bounds.importance_weighted(log_lik - kl)) > truth + 0.5


@checks(bounds.naive_evidence)
def test_naive_evidence_is_near_the_truth_and_biased_low(x64):
    """The likelihood is unbiased: five standard errors; the mean of logs of small samples lies below."""
    x, truth = one_datum(seed=2)
    z = jax.random.normal(jax.random.key(3), (200_000, 3))
    log_lik, _, _ = parts(LINEAR, x, z, 0.0)
    error = float(bounds.evidence(log_lik).standard_error)
    assert abs(float(bounds.naive_evidence(log_lik)) - truth) < 5 * error < 0.2
    assert float(bounds.naive_evidence(log_lik.reshape(20, -1)).mean()) < truth - 0.1


@checks(bounds.renyi)
def test_renyi_joins_elbo_and_importance_weighting_and_falls_with_alpha(dtype):
    log_w = 2 * jax.random.normal(jax.random.key(0), (30, 5), dtype)
    np.testing.assert_allclose(bounds.renyi(log_w, 1.0), log_w.mean(0), rtol=1e-6)
    np.testing.assert_allclose(bounds.renyi(log_w, 0.0), bounds.importance_weighted(log_w), rtol=1e-6)
    alphas = (-1.0, 0.0, 0.3, 0.7, 0.99, 1.0, 1.01, 1.5, 2.0, 5.0)
    values = np.array([bounds.renyi(log_w, alpha) for alpha in alphas])
    assert (np.diff(values, axis=0) < 0).all()
    weights = np.exp(np.asarray(log_w, np.float64))
    for alpha, value in zip(alphas, values, strict=True):
        if alpha != 1:
            # dividing by 1 - alpha = .01 magnifies float32 rounding of a logarithm of size one a hundredfold
            expected = np.log((weights ** (1 - alpha)).mean(0)) / (1 - alpha)
            np.testing.assert_allclose(value, expected, atol=2e-5)


def test_renyi_is_continuous_at_the_elbo(dtype):
    r"""$L_\alpha = \mathrm{mean} + (1-\alpha)\,\mathrm{var}/2$ to first order, in float32 however near alpha is to 1."""
    log_w = 2 * jax.random.normal(jax.random.key(0), (30,), dtype)
    mean, variance = float(log_w.mean()), float(log_w.var())
    for step in (1e-3, 1e-4, 1e-5, 1e-6):
        for alpha in (1 - step, 1 + step):
            expected = mean + (1 - alpha) * variance / 2
            # third cumulant times step^2, and rounding of a mean of 30 numbers of size 5
            assert float(bounds.renyi(log_w, alpha)) == pytest.approx(expected, abs=100 * step**2 + 4e-6)


def test_beta_elbo_weighs_the_kl():
    np.testing.assert_allclose(bounds.elbo(jnp.array([[-3.0], [-1.0]]), jnp.array([0.5]), 4.0), [-4.0])
    values = jnp.array([-3.0, -1.0]), jnp.array([-2.0, -2.5]), jnp.array([-1.5, -0.5])
    assert float(bounds.elbo_sampled(*values, 4.0)) == pytest.approx(-2.0 - 4 * (0.5 + 2.0) / 2)
    assert float(bounds.elbo_sampled(*values, 0.0)) == pytest.approx(-2.0)


@checks(bounds.empty_weights, bounds.accumulate, bounds.summarise, bounds.evidence)
@pytest.mark.parametrize("offset", [0.0, -500.0, 500.0, -1e5])
@pytest.mark.parametrize("chunks", [2, 6, 60])
def test_running_sums_equal_all_at_once_at_any_magnitude(offset, chunks, dtype):
    log_w = offset + 3 * jax.random.normal(jax.random.key(0), (60, 4), dtype)
    log_w = log_w.at[7].set(-jnp.inf).at[:20, 2].set(-jnp.inf)
    weights = bounds.empty_weights((4,), dtype)
    for chunk in jnp.split(log_w, chunks):
        weights = bounds.accumulate(weights, chunk)
    found, whole = bounds.summarise(weights), bounds.evidence(log_w)
    assert all(leaf.dtype == dtype for leaf in (*weights, *found))
    reference = np.asarray(log_w, np.float64)
    top = reference.max(0)
    scaled = np.exp(reference - top)
    # log-weights are given exactly, so only exp, sums and the final sum with the maximum round
    eps = float(jnp.finfo(dtype).eps)
    for estimate in (found, whole):
        np.testing.assert_allclose(
            estimate.log_evidence, top + np.log(scaled.mean(0)), rtol=2 * eps, atol=30 * eps
        )
        ess = scaled.sum(0) ** 2 / (scaled**2).sum(0)
        np.testing.assert_allclose(estimate.effective_sample_size, ess, rtol=100 * eps)
        error = scaled.std(0, ddof=1) / np.sqrt(60) / scaled.mean(0)
        np.testing.assert_allclose(estimate.standard_error, error, rtol=100 * eps)


def test_no_possible_sample_gives_no_evidence():
    nothing = jnp.full(5, -jnp.inf)
    assert bounds.evidence(nothing) == (-np.inf, np.inf, 0)
    assert np.isnan(bounds.evidence(jnp.zeros(1)).standard_error)  # one sample knows nothing of its error
    assert bounds.summarise(bounds.empty_weights()).effective_sample_size == 0
    for figure in ("effective_sample_size", "log_evidence"):
        slope = jax.grad(lambda log_w, figure=figure: getattr(bounds.evidence(log_w), figure))
        np.testing.assert_array_equal(slope(nothing), 0)
        assert np.isfinite(slope(nothing.at[2].set(1.0))).all()
    log_w = jnp.array([0.3, -2.0, 1.0])
    np.testing.assert_allclose(slope(log_w), jax.nn.softmax(log_w), rtol=1e-6)
    weights = bounds.accumulate(bounds.empty_weights(), jnp.full(5, -jnp.inf))
    later = bounds.summarise(bounds.accumulate(weights, jnp.zeros(5)))
    assert float(later.log_evidence) == pytest.approx(np.log(0.5))
    assert float(later.effective_sample_size) == pytest.approx(5)


def test_effective_sample_size_has_its_closed_form(x64):
    """Equal weights: K; one weight alone: 1; log-normal weights: K exp(-s^2), to 5 % with 200,000 of them at s = .5."""
    for count in (2, 7, 100):
        assert float(bounds.evidence(jnp.zeros(count)).effective_sample_size) == pytest.approx(count)
        alone = jnp.full(count, -jnp.inf).at[1].set(3.0)
        assert float(bounds.evidence(alone).effective_sample_size) == pytest.approx(1)
    log_w = 0.5 * jax.random.normal(jax.random.key(0), (200_000,))
    found = float(bounds.evidence(log_w).effective_sample_size)
    assert found == pytest.approx(200_000 * np.exp(-0.25), rel=0.05)


def test_evidence_standard_error_covers_the_truth():
    """200 estimates of log-normal weights (variance of w .28), through running sums.

    The number of 95 % intervals that hold the truth is binomial: 190 in the mean, false alarm 1e-4 below 177 or above
    199 (1000 samples an estimate: the delta method's own bias is a tenth of a percent of coverage).
    """
    log_w = 0.5 * jax.random.normal(jax.random.key(0), (1000, 200)) - 0.125
    weights = bounds.empty_weights((200,))
    for chunk in jnp.split(log_w, 4):
        weights = bounds.accumulate(weights, chunk)
    estimate = bounds.summarise(weights)
    score = np.asarray(estimate.log_evidence / estimate.standard_error)
    assert 177 <= np.sum(np.abs(score) < 1.96) <= 199
    # the scores' variance is one: chi-square with 199 degrees, standard deviation .1, four of them
    assert abs(score.var() - 1) < 0.4
