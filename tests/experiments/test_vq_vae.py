"""The script of VQ-VAEs: a run with its second stage, its continuation, code maps, and vectors."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from dlvm_jax import data as datasets
from dlvm_jax import evaluate, recipes, train
from experiments.vq_vae import __main__ as script
from experiments.vq_vae import prior, report

TINY = script.Config(
    **{"codes": 7, "code_dim": 4, "width": 4, "depth": 1, "prior_width": 4, "prior_depth": 1},
    **{"steps": 4, "prior_steps": 4, "evaluations": 2, "batch_size": 20, "eval_limit": 10},
)


@pytest.mark.slow
def test_codes_are_a_data_set_and_a_prior_of_them_goes_into_the_bound(tmp_path):
    """In levels, whose codes do not depend on a draw; the bound gains what the prior's log-probability does."""
    x = np.random.RandomState(0).randint(0, 4, (60, 4, 4, 1)).astype(np.uint8)
    source = datasets.from_arrays(x, valid=x[:5], test=x[:9], levels=4)
    recipe = recipes.VQVAE(codes=5, code_dim=2, width=4, depth=0, halvings=1)
    fitted = train.fit(recipe, source, out=tmp_path / "vq", steps=2, batch_size=10, progress=False)
    codes = prior.codes_of(fitted, source, 0)
    assert codes.spec.event_shape == (2, 2, 1) and codes.levels == 5 and codes.discrete
    assert len(codes.train) == 10_000 // 60 * 60  # a small set, encoded again and again
    np.testing.assert_array_equal(codes.train[:60], fitted.encode(x))
    np.testing.assert_array_equal(codes.train[-60:], codes.train[:60])
    np.testing.assert_array_equal(codes.test, codes.train[:9])
    second = prior.fit_prior(dataclasses.replace(TINY, prior_steps=2), source, fitted)
    np.testing.assert_array_equal(second.codes.train, codes.train)
    joined = prior.under(fitted, second.prior)
    key = jax.random.key(0)
    gain = joined.log_prob(key, x[:9]) - fitted.log_prob(key, x[:9])
    expected = second.prior.log_prob(None, codes.test.astype(np.float32)) + 4 * np.log(5)
    np.testing.assert_allclose(gain, expected, atol=1e-4)
    assert joined.sample(key, 3).shape == (3, 4, 4, 1)
    record = evaluate.log_likelihood(joined, x[:9], samples=1, progress=False)
    assert record.log_likelihood == pytest.approx(float(joined.log_prob(key, x[:9]).mean()), abs=1e-4)


@pytest.mark.slow
def test_use_and_colours_of_codes(tmp_path):
    assert report.code_use(np.array([[0, 0], [3, 3]]), 8) == {
        "perplexity": pytest.approx(2),
        "used": 0.25,
        "codes": 8,
    }
    model = recipes.VQVAE(quantiser="fsq", levels=(2, 3), width=4, depth=0)
    x = (np.random.RandomState(0).rand(40, 4, 4, 1) < 0.4).astype(np.uint8)
    source = datasets.from_arrays(x)
    fitted = train.fit(model, source, out=tmp_path / "run", steps=1, batch_size=8, progress=False)
    found = report.colours(fitted)
    assert found.shape == (6, 3) and found.min() == 0 and found.max() == 1
    assert len(np.unique(found.round(6), axis=0)) == 6  # a colour for each point of the grid


@pytest.mark.slow
def test_a_run_leaves_a_report_and_goes_on(tmp_path):
    """The prior of a longer run is of its own codes: it begins anew."""
    config = dataclasses.replace(TINY, out=tmp_path / "run", schedule="constant", warm_up=0, seeds=(0, 1))
    script.run(config)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["records"]) == ["0", "1"] and result["records"]["0"]["kind"] == "bound"
    uniform, learned = result["records"]["0"], result["learned"]
    assert uniform["reconstruction"] == pytest.approx(learned["reconstruction"], abs=1e-3)
    assert uniform["kl"] == pytest.approx(4 * np.log(7), rel=1e-5)
    assert result["gain"][0] == pytest.approx(uniform["kl"] - learned["kl"], abs=1e-3)
    assert 1 <= result["use"]["perplexity"] <= 7 and 0 < result["use"]["used"] <= 1
    text = (tmp_path / "run" / "report.md").read_text()
    assert f"{learned['bits_per_dim']:.4f}" in text and f"{uniform['bits_per_dim']:.4f}" in text
    for name in ("samples_uniform", "samples_learned", "codes", "curves"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 1000
    script.run(dataclasses.replace(config, resume=True))
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    script.run(dataclasses.replace(config, resume=True, steps=6))
    further = json.loads((tmp_path / "run" / "result.json").read_text())
    assert further["records"]["0"]["log_likelihood"] != uniform["log_likelihood"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"quantiser": "fsq", "levels": (4, 4), "codes": 64, "code_dim": 16, "prior": "made"},
        {"data": "breast_cancer", "places": 3},
        {
            "likelihood": "discretised-logistic",
            "quantiser": "gradient",
            "gradient": "rotation",
            "condition": "label",
        },
    ],
    ids=str,
)
def test_options_work_together(options, tmp_path):
    script.run(dataclasses.replace(TINY, out=tmp_path / "run", **options))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert np.isfinite(result["learned"]["log_likelihood"])
    assert (tmp_path / "run" / "codes.png").exists() == ("data" not in options)
