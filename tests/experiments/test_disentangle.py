"""The disentanglement script: scores of every objective, resume, refusals."""

import dataclasses
import json

import pytest

from experiments.disentangle import __main__ as disentangle

TINY = disentangle.Config(latent_dim=2, hidden=(8,), steps=4, batch_size=16)


@pytest.mark.slow
def test_a_run_scores_each_objective_and_goes_on(tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run")
    disentangle.run(config)
    rows = json.loads((config.out / "result.json").read_text())
    assert list(rows) == ["VAE", "beta-VAE, 4", "beta-TCVAE, 4"]
    assert all(
        len(each) == 2 and all(0 <= v <= 1 for row in each for v in row.values()) for each in rows.values()
    )
    assert (config.out / "beta-TCVAE.png").exists() and "| MIG |" in (config.out / "report.md").read_text()
    with pytest.raises(ValueError, match="add --resume"):
        disentangle.run(config)
    disentangle.run(dataclasses.replace(config, resume=True))
    assert json.loads((config.out / "result.json").read_text()) == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": (1, 1)}, "different seeds"),
        ({"latent_dim": 1}, "--latent-dim must be at least 2"),
        ({"beta": -1.0}, "--beta must be at least 0"),
        ({"resume": True}, "say which"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        disentangle.check(dataclasses.replace(TINY, **settings))
