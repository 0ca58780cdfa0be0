"""The script of hierarchical VAEs: its records, pictures of what layers encode, and a run that goes on."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from dlvm_jax import data, recipes
from experiments.hierarchical import __main__ as script
from experiments.hierarchical import looking
from experiments.run import recipe_of

TINY = script.Config(
    latent_dim=2,
    groups=(1, 2),
    latents=(2, 3),
    widths=(4, 6),
    hidden=(4, 4),
    steps=6,
    evaluations=2,
    eval_samples=2,
    eval_limit=10,
    batch_size=20,
)


@pytest.mark.slow
def test_a_run_writes_records_rates_and_pictures_and_goes_on(tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run")
    script.run(config)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    record = result["records"]["0"]
    assert record["examples"] == 10 and len(record["rates"]) == 4 and np.isfinite(record["log_likelihood"])
    assert sum(record["rates"]) == pytest.approx(record["kl"], rel=1e-5)
    units = record["layer_units"]
    assert len(units) == 4 and sum(units) == record["active_units"]
    report = (tmp_path / "run" / "report.md").read_text()
    assert "4 layers" in report and all(
        f"| {n} | {size} | {rate:.2f} | {count} |" in report
        for n, size, rate, count in zip((1, 2, 3, 4), (2, 2, 3, 3), record["rates"], units, strict=True)
    )
    assert f"without an active unit: {units.count(0)} of 4" in report
    names = (
        "samples",
        "reconstructions",
        "temperatures",
        "layers",
        "interpolations",
        "walk",
        "rates",
        "curves",
    )
    for name in names:
        assert (tmp_path / "run" / f"{name}.png").exists() and f"({name}.png)" in report
    film = Image.open(tmp_path / "run" / "walk.gif")
    assert film.n_frames == looking.STEPS and film.size[0] >= 360
    script.run(dataclasses.replace(config, resume=True, steps=9))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] in (6, 9)


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"cells": "vdvae", "prior": "flow", "seeds": (0, 1)},
    {"inference": "bottom-up", "data": "breast_cancer", "likelihood": "normal"},
    {"inference": "precision-weighted", "prior": "vamp", "components": 5, "balance": True, "beta_warm_up": 4, "skip": 100.0,
     "optimiser": "adamax-nvae"},
    {"condition": "label", "prior": "learned"},
])  # fmt: skip
def test_options_work_together(options, tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run", **options)
    script.run(config)
    records = json.loads((tmp_path / "run" / "result.json").read_text())["records"]
    assert len(records) == len(config.seeds)
    assert all(np.isfinite(record["log_likelihood"]) for record in records.values())
    assert (tmp_path / "run" / "layers.png").exists() == (config.data == "digits")


@pytest.mark.slow
def test_interpolation_moves_the_first_layers_alone(monkeypatch, tmp_path):
    """Values of the latents that are decoded: in row k those of later layers are the first image's."""
    source = data.load("digits")
    model = recipe_of(TINY, recipes.Hierarchical).build(source.spec, {}).parts
    model = model._replace(infer=jax.jit(model.infer), decode=jax.jit(model.decode))
    params, seen = jax.jit(model.density.init)(jax.random.key(0)), []
    x = np.asarray(source.test[:2], np.float32)
    ends = model.infer(params, jax.random.key(1), x)

    def spy(params, latents, **options):
        seen.append(latents)
        return model.decode(params, latents, **options)

    looking.interpolations(tmp_path / "i.png", model._replace(decode=spy), params, x, jax.random.key(1), 1.0)
    assert len(seen) == 4
    for k, latents in enumerate(seen, start=1):
        layers = [latents.top, *latents.groups[0], *latents.groups[1]]
        of_ends = [ends.top, *ends.groups[0], *ends.groups[1]]
        for number, (values, (first, second)) in enumerate(zip(layers, of_ends, strict=True), start=1):
            np.testing.assert_allclose(values[0], first, rtol=1e-6)
            np.testing.assert_allclose(values[-1], second if number <= k else first, rtol=1e-6)
