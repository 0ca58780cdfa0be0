"""A diffusion prior for a trained VAE: from a run folder to a report."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import run as common
from experiments.diffusion import prior as diffusion_prior
from experiments.vae import __main__ as vae
from experiments.vae import setup as vae_setup

TINY = diffusion_prior.Config(width=8, steps=20, batch_size=16, eval_samples=2, eval_limit=5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A VAE of the digits with a VampPrior, whose parameters the prior borrows, and two seeds."""
    root = tmp_path_factory.mktemp("vae") / "run"
    parts = {"prior": "vamp", "components": 3, "latent_dim": 2, "hidden": (8,), "seeds": (0, 1)}
    vae.run(vae_setup.Config(**parts, steps=20, eval_samples=2, eval_limit=5, out=root))
    return root


@pytest.mark.slow
def test_a_prior_is_trained_over_a_finished_vae(trained, tmp_path):
    """The row of its own prior is that of the VAE's run; a continued run gives the same result, another VAE is refused."""
    config = dataclasses.replace(TINY, vae=trained, out=tmp_path / "run")
    diffusion_prior.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert list(result["records"]) == ["its own, vamp", "diffusion"]
    before = json.loads((trained / "result.json").read_text())["records"]["0"]
    assert result["records"]["its own, vamp"]["evidence"]["log_likelihood"] == pytest.approx(
        before["log_likelihood"], rel=1e-5
    )
    assert result["records"]["diffusion"]["bound"]["kind"] == "bound"
    assert result["records"]["diffusion"]["evidence"]["kind"] == "weight" and result["step"] > 0
    changes = [
        result["records"]["diffusion"][of]["log_likelihood"]
        - result["records"]["its own, vamp"][of]["log_likelihood"]
        for of in ("bound", "evidence")
    ]
    np.testing.assert_allclose([mean for mean, _ in result["differences"]], changes, rtol=1e-5)
    for name in ("samples_before", "samples_after", "curves"):
        assert (config.out / f"{name}.png").stat().st_size > 3000
    diffusion_prior.run(dataclasses.replace(config, resume=True))
    assert json.loads((config.out / "result.json").read_text()) == result


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"resume": True}, "say which"),
        ({"vae": "nowhere"}, "holds no run of experiments.vae"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    settings = {k: tmp_path / v if k == "vae" else v for k, v in settings.items()}
    out = {} if settings.get("resume") else {"out": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        diffusion_prior.run(dataclasses.replace(TINY, **out, **settings))


@pytest.mark.parametrize("wrong", [{"prior": "sphere", "posterior": "von-mises-fisher"}, {"layers": 2}])
def test_vaes_of_other_latent_spaces_are_refused(wrong):
    with pytest.raises(ValueError, match="takes over one layer on R"):
        diffusion_prior.check_vae(vae_setup.Config(**wrong))


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(common.settings(vae_setup.Config())))
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        vae_setup.load(tmp_path)
