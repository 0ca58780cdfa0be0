"""The disentanglement script: scores of every objective, resume, refusals that change nothing."""

import dataclasses
import json

import numpy as np
import pytest

from dlvm_jax.data import factors
from experiments.disentangle import __main__ as disentangle
from experiments.disentangle import report

TINY = disentangle.Config(latent_dim=2, hidden=(8,), steps=4, batch_size=16)


def files(root):
    """The contents of every file that says what a run is."""
    names = ("config.json", "model.json", "result.json", "report.md")
    return {path: path.read_bytes() for name in names for path in root.rglob(name)}


@pytest.mark.slow
def test_a_run_scores_each_objective_and_goes_on(tmp_path):
    config = dataclasses.replace(TINY, seeds=(1,), out=tmp_path / "run")
    disentangle.run(config)
    rows = json.loads((config.out / "result.json").read_text())
    assert list(rows) == ["VAE", "beta-VAE, 4", "beta-TCVAE, 4"]
    assert all(
        len(each) == 1 and all(0 <= v <= 1 for row in each for v in row.values()) for each in rows.values()
    )
    assert (config.out / "beta-TCVAE.png").exists() and "| MIG |" in (config.out / "report.md").read_text()
    before = files(config.out)
    for other, message in (
        (config, "already holds a run"),
        (dataclasses.replace(config, resume=True, latent_dim=3), "latent_dim 2 there, 3 here"),
        (dataclasses.replace(config, resume=True, beta=2.0), "beta 4.0 there, 2.0 here"),
    ):
        with pytest.raises(ValueError, match=message):
            disentangle.run(other)
        assert files(config.out) == before
    disentangle.run(dataclasses.replace(config, resume=True))
    assert json.loads((config.out / "result.json").read_text()) == rows


def test_a_result_is_written_when_all_is_done(tmp_path, monkeypatch):
    """A stop in the report leaves no result, which would be read as that of a finished run."""

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(disentangle.train, "fit", lambda *_, **__: None)
    monkeypatch.setattr(report, "evaluate_and_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        disentangle.run(dataclasses.replace(TINY, out=tmp_path / "run"))
    assert not files(tmp_path)


def test_every_shape_is_trained_on():
    data = disentangle.shapes()
    assert data.spec.examples == len(factors.all_factors()) == 7680
    assert data.spec.levels == 2 and data.discrete and len(data.valid) == len(data.test) == 0
    np.testing.assert_allclose(
        data.train / 255.0, factors.render(factors.all_factors()), atol=0.5 / 255 + 1e-6
    )


def test_the_models_that_are_compared():
    plain, beta, correlation = disentangle.Config(beta=6.0).models.values()
    assert (plain.objective, plain.beta) == ("elbo", 1.0)
    assert (beta.objective, beta.beta) == ("elbo", 6.0)
    assert (correlation.objective, correlation.beta) == ("total-correlation", 6.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": (1, 1)}, "different seeds"),
        ({"latent_dim": 1}, "latent_dim must be at least 2"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"hidden": ()}, "hidden needs at least one positive width"),
        ({"resume": True}, "say which"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings).check()
