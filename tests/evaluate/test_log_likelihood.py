"""The likelihood of a trained model: its record, contexts, precision, and how it goes on after an interruption."""

import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.data import Spec
from dlvm_jax.evaluate import evaluate, evaluation_key, likelihood, log_likelihood, paired
from dlvm_jax.exact import linear_gaussian
from dlvm_jax.functional import densities
from dlvm_jax.models import density
from dlvm_jax.models.vae import Parts, vae
from tests.models.test_vae import MODEL, exact_posterior, linear_decoder

SPEC = Spec("toy", "dynamic", "abc", (6,), 100, 0, False, 0.5)


class Model(NamedTuple):
    """As much of a recipe's model as evaluation needs."""

    density: density.Density | None
    parts: object = None
    split: object = lambda batch: batch
    labels: bool = False


def fitted(model, params):
    return SimpleNamespace(model=model, params=params, spec=SPEC)


def a_vae(spread=1.5):
    parts = Parts(density.standard_normal(3), exact_posterior(MODEL, spread), linear_decoder(MODEL))
    return fitted(Model(vae(*parts), parts), parts.init(jax.random.key(0)))


def data(count):
    return np.asarray(linear_gaussian.sample(MODEL, jax.random.key(0), (count,))[0])


def test_record_of_a_trained_model():
    """It is that of `evaluate` with the protocol of the model's data, the default key and the posterior's active units."""
    one, x = a_vae(), data(30)
    record = log_likelihood(one, x, samples=4, progress=False)
    by_hand = evaluate(
        one.model.density,
        one.params,
        x,
        key=jax.random.fold_in(jax.random.key(0), 2**31),
        samples=4,
        protocol="dynamic",
        protocol_hash="abc",
        bin_width=0.5,
    )
    assert record == by_hand and record.estimator == "iwae"
    assert record.active_units is None  # no mean is known
    again = log_likelihood(one, x, samples=4, key=evaluation_key(1), progress=False)
    assert again.log_likelihood != record.log_likelihood
    bound = log_likelihood(one, x, samples=4, estimator="bound", progress=False)
    assert bound.log_likelihood == bound.elbo == record.elbo
    posterior = one.model.parts.posterior._replace(
        mean=lambda params, x: linear_gaussian.posterior(MODEL, x)[0]
    )
    counted = one.model._replace(parts=one.model.parts._replace(posterior=posterior))
    found = log_likelihood(fitted(counted, one.params), x, samples=1, progress=False)
    assert found.active_units == 3


def test_labels_stay_integers_and_x_is_split():
    """A class-conditional Gaussian whose means are looked up by label, of the last two elements given the label."""

    def log_prob(params, key, x, context=None):
        assert jnp.issubdtype(context.dtype, jnp.integer) and x.dtype == jnp.float32
        return densities.normal_log_prob(x, params["mean"][context], jnp.zeros(2))

    means = np.random.RandomState(0).randn(3, 2).astype(np.float32)
    conditional = density.Density(lambda key: {}, None, log_prob, "exact")
    model = Model(conditional, split=lambda batch: (batch[0][:, 4:], batch[1]), labels=True)
    x, labels = np.arange(60, dtype=np.uint8).reshape(10, 6) % 4, np.arange(10) % 3
    record = log_likelihood(fitted(model, {"mean": jnp.asarray(means)}), (x, labels), progress=False)
    expected = -0.5 * ((x[:, 4:] - means[labels]) ** 2).sum(1) - np.log(2 * np.pi)
    np.testing.assert_allclose(record.per_example, expected, rtol=1e-5)
    assert record.samples == 1 and record.estimator == "exact"


def test_evaluation_has_the_precision_of_the_parameters(x64):
    """Double parameters: the closed form to 1e-12, where single precision errs by 1e-7; single ones get single x."""
    seen = []

    def log_prob(params, key, x, context=None):
        seen.append((x.dtype, context.dtype))
        return densities.normal_log_prob(x, params["mean"], jnp.zeros_like(params["mean"]))

    split = lambda x: (x, x[:, :1])  # its part is the context
    one = Model(density.Density(lambda key: {}, None, log_prob, "exact"), split=split)
    x = np.random.RandomState(0).randn(10, 6)
    for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
        mean = jnp.full(6, 1 / 3, dtype)
        record = log_likelihood(fitted(one, {"mean": mean}), x, progress=False)
        wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
        assert seen[-1] == (wide, wide)
        if dtype == jnp.float64:
            expected = -0.5 * ((x - 1 / 3) ** 2).sum(1) - 3 * np.log(2 * np.pi)
            np.testing.assert_allclose(record.per_example, expected, rtol=1e-12)


def test_an_interrupted_evaluation_goes_on(tmp_path, monkeypatch):
    """Its finished batches are read, but by no evaluation of other settings or data; damaged files count as none."""
    one, x = a_vae(), data(50)
    options = {"samples": 4, "batch_size": 20, "progress": False, "folder": tmp_path}
    whole = log_likelihood(one, x, **options | {"folder": None})
    made = likelihood._batch_evaluator
    calls = []

    def stopped_after(count):
        def evaluator(*of):
            def run(*arguments):
                calls.append(None)
                if len(calls) > count:
                    raise KeyboardInterrupt
                return made(*of)(*arguments)

            return run

        calls.clear()
        monkeypatch.setattr(likelihood, "_batch_evaluator", evaluator)

    stopped_after(2)
    with pytest.raises(KeyboardInterrupt):
        log_likelihood(one, x, **options)
    stopped_after(1)
    again = log_likelihood(one, x, **options)
    assert len(calls) == 1
    np.testing.assert_array_equal(again.per_example, whole.per_example)
    stopped_after(1000)
    others = ({"samples": 2}, {"batch_size": 10}, {"key": evaluation_key(1)}, {"chunk": 2}, {"x": x + 1})
    for other in others:
        of = {"x": x} | options | other
        found, fresh = (log_likelihood(one, **of | {"folder": folder}) for folder in (tmp_path, None))
        np.testing.assert_array_equal(found.per_example, fresh.per_example)
    for path in tmp_path.glob("*/1.npz"):
        path.write_bytes(b"cut short")
    stopped_after(1)
    again = log_likelihood(one, x, **options)
    assert len(calls) == 1
    np.testing.assert_array_equal(again.per_example, whole.per_example)


def test_progress_is_drawn_on_request(capsys):
    one, x = a_vae(), data(5)
    log_likelihood(one, x, samples=1, progress=False)
    assert capsys.readouterr().err == ""
    log_likelihood(one, x, samples=1)
    assert "5/5" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_record_that_is_no_number_is_refused(bad):
    def log_prob(params, key, x, context=None):
        return jnp.where(x[:, 0] > 0, bad, 0.0)

    one = Model(density.Density(lambda key: {}, None, log_prob, "exact"))
    x = np.zeros((5, 6), np.float32)
    assert log_likelihood(fitted(one, {}), x, progress=False).log_likelihood == 0
    x[[2, 4], 0] = 1
    with pytest.raises(
        ValueError, match=f"2 of 5 log-likelihoods are not finite: that of example 2 is {bad}; check"
    ):
        log_likelihood(fitted(one, {}), x, progress=False)


def test_a_model_without_a_density_has_no_likelihood():
    with pytest.raises(ValueError, match="no density, so no likelihood"):
        log_likelihood(fitted(Model(None), {}), np.zeros((5, 6)))


def test_paired_differences():
    """Mean and standard error; of a single example there is no error."""
    mean, error = paired(np.array([1.0, 2.0, 6.0]))
    assert mean == 3.0 and error == pytest.approx(np.sqrt(7 / 3))
    assert np.isnan(paired(np.array([1.0]))[1])


def test_importing_the_package_loads_no_picture_and_no_classifier():
    code = """
import sys
from dlvm_jax import evaluate, models
assert not {"jax", "matplotlib", "sklearn"} & set(sys.modules), sorted(sys.modules)
evaluate.Record, evaluate.likelihood, evaluate.diagnostics, models.vae, models.flows.stack
assert not {"matplotlib", "sklearn"} & set(sys.modules)
evaluate.disentanglement, evaluate.pictures.new_figure()
assert "matplotlib" in sys.modules
for module in (evaluate, models):
    for name in module.__all__:
        getattr(module, name)
    assert set(module.__all__) <= set(dir(module))
    try:
        module.nothing
    except AttributeError as error:
        assert "has no attribute 'nothing'; it has" in str(error)
    else:
        raise AssertionError
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
