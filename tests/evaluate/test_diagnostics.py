"""Diagnostics of VAEs whose aggregated posterior, evidence and KLs are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.evaluate import diagnostics, likelihood
from dlvm_jax.evaluate.annealed import annealed_log_likelihoods
from dlvm_jax.evaluate.units import active_units
from dlvm_jax.exact import linear_gaussian
from dlvm_jax.functional import divergences
from dlvm_jax.models import density
from dlvm_jax.models.vae import Parts, vae
from dlvm_jax.models.vamp import vamp
from tests.models.test_vae import MODEL, exact_posterior, linear_decoder


def shifted(log_std, scale=1.0):
    """The posterior N(scale * x, e^(2 log_std)) of a vector x of the same size."""
    log_std = jnp.asarray(log_std, jnp.float32)

    def outputs(params, x):
        mean = x * jnp.asarray(scale, jnp.float32)
        return jnp.stack([mean, jnp.broadcast_to(log_std, mean.shape)], axis=-1)

    return density.conditional(density.Net(lambda key: {}, outputs), density.normal(), log_std.shape)


def gaussian_parts(log_std, scale=1.0):
    dim = len(log_std)
    decoder = density.conditional(
        density.Net(lambda key: {}, lambda params, z: z[..., None]), density.fixed_normal(1.0), (dim,)
    )
    return Parts(density.standard_normal(dim), shifted(log_std, scale), decoder)


def diagnose(parts, x, seed=0, **options):
    return diagnostics.diagnose(parts, parts.init(jax.random.key(0)), x, key=jax.random.key(seed), **options)


def near(estimate, truth, errors=5):
    return abs(estimate.value - truth) < errors * estimate.standard_error


def quadrature_truth(x, std):
    """I(x; z), KL(q(z) || p) and the mass of p outside the 99% region of q(z), for N(x_n, std^2) and N(0, 1) on the line."""
    z = np.linspace(-12, 12, 20_001)  # smooth and zero at the ends: the plain sum is exact to rounding
    weights = z[1] - z[0]
    q = scipy.stats.norm.pdf(z[:, None], x, std).mean(1)
    p = scipy.stats.norm.pdf(z)
    information = -np.sum(weights * q * np.log(q)) - 0.5 * np.log(2 * np.pi * np.e * std**2)
    order = np.argsort(-q)
    inside = order[np.cumsum(weights * q[order]) < 0.99]
    return information, np.sum(weights * q * np.log(q / p)), 1 - np.sum(weights * p[inside])


def test_surgery_equals_quadrature():
    """Two groups with a hole at zero between them; within five standard errors, false alarm 2e-6."""
    x, std = np.array([-2.0, -1.7, 1.5, 1.9, 2.2]), 0.3
    information, marginal, hole = quadrature_truth(x, std)
    found = diagnose(gaussian_parts([np.log(std)]), x[:, None], draws=4000)
    assert near(found.mutual_information, information) and near(found.marginal_kl, marginal)
    rate = 0.5 * (np.mean(x**2) + std**2 - 1) - np.log(std)
    assert near(found.rate, rate) and rate == pytest.approx(information + marginal, abs=1e-6)
    assert found.rate.value == pytest.approx(found.mutual_information.value + found.marginal_kl.value)
    assert found.rate.standard_error < 0.02
    # the threshold comes from as many draws of q as there are of p: twice the stated error covers it
    assert hole > 0.6 and near(found.hole, hole, 10)
    assert near(found.distortion, 0.5 * np.log(2 * np.pi) + 0.5 * std**2)
    assert found.unit_kl[0] == pytest.approx(rate, abs=1e-5)


def test_hole_of_a_narrow_gaussian_aggregate():
    """q(z) = N(0, 0.5^2) but for the 500 points of its means: 2 (1 - Phi(2.576 / 2)) of the prior's mass is outside."""
    means = np.sqrt(0.24) * scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500)
    found = diagnose(gaussian_parts([np.log(0.1)]), means[:, None], draws=20)
    assert found.hole.value == pytest.approx(2 * scipy.stats.norm.sf(2.5758 / 2), abs=0.02)


def test_a_posterior_that_is_the_prior_has_collapsed():
    x = np.random.RandomState(0).randn(50, 2)
    found = diagnose(gaussian_parts([0.0, 0.0], scale=0.0), x, draws=200)
    for estimate in (found.rate, found.mutual_information, found.marginal_kl):
        assert estimate.value == pytest.approx(0, abs=1e-5)
    assert near(found.hole, 0.01) and found.active_units == 0 and found.collapsed_units == 2


def test_units_are_told_apart():
    """Unit 1 follows x, unit 2 is the prior, unit 3 has a KL but no information: not active, not collapsed."""
    x = np.random.RandomState(0).randn(200, 3)
    parts = gaussian_parts([np.log(0.5), 0.0, np.log(0.5)], scale=[1.0, 0.0, 0.0])
    found = diagnose(parts, x, draws=2)
    assert found.active_units == 1 == active_units(parts.posterior, {}, x)
    assert found.collapsed_units == 1
    kl = 0.5 * (0.25 - 1) - np.log(0.5)
    np.testing.assert_allclose(found.unit_kl, [kl + 0.5 * np.mean(x[:, 0] ** 2), 0, kl], atol=1e-5)
    np.testing.assert_allclose(found.mean_variance, [x[:, 0].var(), 0, 0], rtol=1e-5)
    for part in ("1 active units", "1 collapsed units", "200 examples, log N = 5.30, 2 draws", "rate "):
        assert part in found.line()


def test_rate_and_distortion_of_the_exact_posterior_add_up_to_the_evidence():
    """For every draw; a full covariance: no KL of units, and the aggregate by the posterior's own log-density."""
    parts = Parts(density.standard_normal(3), exact_posterior(MODEL), linear_decoder(MODEL))
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(1), (130,))
    found = diagnose(parts, np.asarray(x), draws=50, block=40)
    truth = -np.asarray(linear_gaussian.log_evidence(MODEL, x)).mean()
    assert found.rate.value + found.distortion.value == pytest.approx(truth, abs=1e-4)
    kl = divergences.kl_multivariate_normal(
        *linear_gaussian.posterior(MODEL, x), jnp.zeros(3), jnp.eye(3)
    ).mean()
    assert near(found.rate, float(kl))
    assert 0 < found.mutual_information.value < np.log(130)
    assert found.unit_kl is found.collapsed_units is found.mean_variance is found.active_units is None
    with pytest.raises(ValueError, match="needs a diagonal Gaussian prior and posterior; use the rate"):
        diagnostics.unit_kl(parts, parts.init(jax.random.key(0)), x)


def test_both_ways_to_the_aggregate_agree():
    """To float32 rounding of sums over 30 examples."""
    x = np.random.RandomState(0).randn(30, 2)
    parts = gaussian_parts([-0.5, -1.0])
    plain = parts._replace(posterior=parts.posterior._replace(normal=None))
    first, second = (diagnose(p, x, draws=5, block=7) for p in (parts, plain))
    assert first.mutual_information.value == pytest.approx(second.mutual_information.value, abs=1e-4)
    assert second.unit_kl is None and second.active_units == first.active_units


def test_standard_errors_are_those_of_the_draws():
    """Standardised errors of 200 repetitions: the mean has the standard deviation 0.07, the variance 0.1."""
    x = np.array([-1.0, 0.2, 1.5])[:, None]
    parts = gaussian_parts([np.log(0.4)])
    information, marginal, _ = quadrature_truth(x[:, 0], 0.4)
    found = [diagnose(parts, x, seed, draws=400) for seed in range(200)]
    for name, truth in (("mutual_information", information), ("marginal_kl", marginal)):
        score = [(getattr(f, name).value - truth) / getattr(f, name).standard_error for f in found]
        assert abs(np.mean(score)) < 0.3 and abs(np.var(score) - 1) < 0.4


def test_a_vamp_prior_on_all_the_data_is_the_aggregated_posterior():
    """Then KL(q(z) || p) is zero for every draw and the rate is the mutual information; the prior shares the posterior."""
    x = np.random.RandomState(0).randn(40, 2).astype(np.float32)
    parts = gaussian_parts([-0.7, -0.2])
    prior = vamp(parts.posterior, x, 1.0, train=False)
    found = diagnose(parts._replace(prior=prior), x, draws=20)
    assert abs(found.marginal_kl.value) < 1e-5
    assert found.rate.value == pytest.approx(found.mutual_information.value, abs=1e-5)
    assert near(found.hole, 0.01)


def test_impossible_diagnostics_are_refused():
    parts, x = gaussian_parts([0.0]), np.zeros((4, 1))
    with pytest.raises(ValueError, match="use a VAE without a context"):
        diagnose(parts, (x, x))
    for examples, draws in ((4, 1), (1, 4)):
        with pytest.raises(ValueError, match=f"two draws and examples, got {draws} and {examples}"):
            diagnose(parts, x[:examples], draws=draws)


@pytest.mark.parametrize("bad, message", [(np.nan, "value nan"), (1j, "real numbers"), ("1", "real numbers")])
def test_examples_that_are_no_numbers_are_refused_by_every_figure(bad, message):
    parts = gaussian_parts([0.0])
    params = parts.init(jax.random.key(0))
    x = np.array([[0.0], [1.0], [bad], [2.0]])
    for figure in (
        lambda: diagnose(parts, x),
        lambda: active_units(parts.posterior, params["posterior"], x),
        lambda: likelihood.log_likelihoods(vae(*parts), params, x, key=jax.random.key(0), samples=1),
        lambda: annealed_log_likelihoods(parts, params, x, key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match=message):
            figure()


def test_contexts_belong_to_their_examples():
    given, x = (
        density.Density(lambda key: {}, None, lambda params, key, x, c: x[:, 0] + c[:, 0], "exact"),
        np.zeros((3, 1)),
    )
    for context, message in (
        (np.zeros((5, 1)), "3 examples and 5 contexts"),
        (x * np.nan, "the context has"),
    ):
        with pytest.raises(ValueError, match=message):
            likelihood.log_likelihoods(given, {}, (x, context), key=jax.random.key(0), samples=1)


def test_one_example_without_a_batch_is_not_many():
    parts = gaussian_parts([0.0])
    with pytest.raises(ValueError, match="N, "):
        annealed_log_likelihoods(parts, {}, np.zeros(4), key=jax.random.key(0))
