"""Evaluation against exact evidence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.evaluate import Record, active_units, evaluate
from dlvm_jax.evaluate.likelihood import log_likelihoods
from dlvm_jax.exact import linear_gaussian
from dlvm_jax.models import density, objectives
from dlvm_jax.models.vae import vae
from tests.models.test_vae import MODEL, exact_posterior, linear_decoder, small_parts

DECODER = linear_decoder(MODEL)


def data(count):
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), (count,))
    return np.asarray(x)


def record(model, x, samples, **options):
    params = model.init(jax.random.key(1))
    return evaluate(
        model, params, x, key=jax.random.key(2), samples=samples, protocol="toy", protocol_hash="0", **options
    )


def test_record_equals_the_exact_evidence_with_the_exact_posterior():
    x = data(130)
    truth = np.asarray(linear_gaussian.log_evidence(MODEL, x))
    result = record(vae(density.standard_normal(3), exact_posterior(MODEL), DECODER), x, 4, batch_size=50)
    assert result.log_likelihood == pytest.approx(truth.mean(), abs=1e-4)
    assert result.elbo == pytest.approx(truth.mean(), abs=1e-4)
    assert result.reconstruction - result.kl == pytest.approx(result.elbo, abs=1e-4)
    assert result.standard_error == pytest.approx(truth.std(ddof=1) / np.sqrt(130), rel=1e-3)
    assert result.bits_per_dim == pytest.approx(-truth.mean() / 6 / np.log(2), rel=1e-5)
    assert result.bits_standard_error == pytest.approx(result.standard_error / 6 / np.log(2), rel=1e-6)
    assert result.effective_samples == pytest.approx(4, rel=1e-3)
    assert (result.examples, result.samples, result.kind, result.estimator) == (130, 4, "weight", "iwae")


def test_evaluation_in_double_precision(x64):
    """Of double parameters (the exact evidence to 1e-9) and of single ones."""
    x, wide = data(3), linear_gaussian.LinearGaussian(*(jnp.asarray(a, jnp.float64) for a in MODEL))
    truth = np.asarray(linear_gaussian.log_evidence(wide, jnp.asarray(x, jnp.float64)))
    for model, tolerance in ((wide, 1e-9), (MODEL, 1e-4)):
        whole = vae(density.standard_normal(3), exact_posterior(model), linear_decoder(model))
        assert record(whole, x, 4).log_likelihood == pytest.approx(truth.mean(), abs=tolerance)


def test_importance_sampling_with_a_wide_posterior_reaches_the_evidence():
    """Exact gap of the ELBO; the K = 2000 estimate within 5 standard errors of its own per-example noise (about 0.01)."""
    x, spread = data(60), 2.0
    truth = np.asarray(linear_gaussian.log_evidence(MODEL, x))
    model = vae(density.standard_normal(3), exact_posterior(MODEL, spread), DECODER)
    result = record(model, x, 2000, batch_size=32)
    assert result.log_likelihood == pytest.approx(truth.mean(), abs=0.02)
    assert result.elbo == pytest.approx(truth.mean() - 1.5 * (spread - 1 - np.log(spread)), abs=0.03)
    own = {"key": jax.random.key(2), "samples": 2000, "batch_size": 32}
    each = log_likelihoods(model, model.init(jax.random.key(1)), x, **own)["bound"].astype(np.float64)
    assert result.elbo_standard_error == pytest.approx(each.std(ddof=1) / np.sqrt(60), rel=1e-6)
    assert result.elbo_standard_error != result.standard_error


def test_the_rate_of_each_layer_is_recorded_and_not_trained_on():
    """Layers that share the KL of a VAE one to three; other densities have no rates."""
    plain, x = vae(density.standard_normal(3), exact_posterior(MODEL, 2.0), DECODER), data(9)

    def terms(*arguments):
        found = plain.terms(*arguments)
        return {**found, "rates": found["kl"][..., None] * jnp.array([0.25, 0.75])}

    layered = plain._replace(terms=terms)
    result, expected = record(layered, x, 4, batch_size=5), record(plain, x, 4, batch_size=5)
    assert expected.rates is None and result.as_dict()["rates"] == result.rates
    np.testing.assert_allclose(result.rates, [0.25 * expected.kl, 0.75 * expected.kl], rtol=1e-6)
    assert dataclasses.replace(result, rates=None) == expected
    loss, metrics = objectives.negative_elbo(layered)(
        plain.init(jax.random.key(0)), jax.random.key(0), jnp.asarray(x)
    )
    assert set(metrics) == {"bound", "reconstruction", "kl"} and loss == -metrics["bound"]


def test_batches_and_chunks_do_not_change_what_is_estimated():
    """A ragged last batch is evaluated, and only once: per-example values have the right number and order."""
    x = data(23)
    model = vae(density.standard_normal(3), exact_posterior(MODEL), DECODER)
    for size, chunk in ((23, 4), (10, 1), (5, 2)):
        values = log_likelihoods(
            model,
            model.init(jax.random.key(0)),
            x,
            key=jax.random.key(1),
            samples=4,
            batch_size=size,
            chunk=chunk,
        )
        np.testing.assert_allclose(values["iwae"], linear_gaussian.log_evidence(MODEL, x), atol=1e-4)


def test_an_evaluation_goes_on_from_its_finished_batches():
    x, model = data(110), vae(density.standard_normal(3), exact_posterior(MODEL, 1.5), DECODER)
    whole, part = record(model, x, 4, batch_size=25), {}

    def stop(done):
        if done == 75:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(model, x, 4, batch_size=25, finished=part, progress=stop)
    assert sorted(part) == [0, 1, 2]
    again = record(model, x, 4, batch_size=25, finished=part)
    np.testing.assert_array_equal(again.per_example, whole.per_example)
    part[1] = {
        name: values + 1 for name, values in part[1].items()
    }  # so we see that it is not computed again
    changed = record(model, x, 4, batch_size=25, finished=part)
    np.testing.assert_allclose(changed.per_example - whole.per_example, np.repeat([0, 1, 0], [25, 25, 60]))


def test_a_bound_is_evaluated_as_a_bound_and_never_importance_weighted():
    parts = small_parts()
    model = vae(*parts, kl="analytic")
    x = (np.random.RandomState(0).rand(30, 4) < 0.5).astype(np.uint8)
    result = record(model, x, 10)
    assert result.estimator == "bound" and result.log_likelihood == pytest.approx(result.elbo)
    assert ">=" in str(result) and result.effective_samples is None
    with pytest.raises(ValueError, match=r"importance-weighted evaluation needs .* got kind 'bound'"):
        record(model, x, 10, estimator="iwae")


def test_an_exact_density_needs_no_samples():
    prior = density.standard_normal(2)
    x = np.random.RandomState(0).randn(40, 2).astype(np.float32)
    result = record(prior, x, 1, bin_width=0.5)
    expected = (-0.5 * (x**2).sum(1) - np.log(2 * np.pi)).mean()
    assert result.log_likelihood == pytest.approx(expected, abs=1e-5) and result.elbo is None
    assert result.bits_per_dim == pytest.approx(-expected / 2 / np.log(2) + 1, rel=1e-5)


def test_active_units_of_a_linear_model_are_those_of_theory():
    """Var E[z_i|x] = (lambda_i - sigma^2) / lambda_i for orthogonal columns: unit i is active iff lambda_i > sigma^2 / 0.99."""
    scales = jnp.array([2.0, 0.5, 0.12, 0.08])  # variances of the mean 0.8, 0.2, 0.014, 0.0064 at sigma = 1
    model = linear_gaussian.LinearGaussian(jnp.eye(6)[:, :4] * scales, jnp.zeros(6), jnp.float32(0))
    x, _ = linear_gaussian.sample(model, jax.random.key(0), (20_000,))
    posterior = exact_posterior(model)._replace(
        mean=lambda params, context: linear_gaussian.posterior(model, context)[0]
    )
    assert active_units(posterior, {}, np.asarray(x)) == 3


def test_impossible_evaluations_are_refused():
    prior = density.standard_normal(2)
    with pytest.raises(ValueError, match="no examples to evaluate"):
        record(prior, np.zeros((0, 2)), 1)
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        record(prior, np.zeros((3, 2)), 0)
    with pytest.raises(ValueError, match=r"'iwae' or 'bound', .* got 'ais' of"):
        record(prior, np.zeros((3, 2)), 1, estimator="ais")
    with pytest.raises(ValueError, match="got 'weight' of a density of kind 'weight'"):
        record(vae(*small_parts()), np.zeros((3, 4)), 1, estimator="weight")


def test_record_prints_protocol_estimator_and_error():
    text = str(
        Record("iwae", 500, 100, "static", "abc", "weight", -85.0, 0.4, 0.156, -88.0, -60.0, 28.0, 100.0, 20)
    )
    for part in ("-85.00 +- 0.40 nats", "K=500", "static abc", "ELBO -88.00", "20 active units"):
        assert part in text
