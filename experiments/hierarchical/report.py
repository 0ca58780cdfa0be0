"""Evaluation, pictures and report of a trained hierarchical VAE."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import pictures
from dlvm_jax.evaluate.units import ACTIVE
from dlvm_jax.models.objectives import unpack
from dlvm_jax.recipes.base import examples_of
from dlvm_jax.recipes.networks import top
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.evaluation import learning_curves, records_of_seeds
from experiments.hierarchical import looking

if TYPE_CHECKING:
    from experiments.hierarchical.__main__ import Config

__all__ = ["evaluate_and_write"]

DEAD = 0.01  # nats below which a layer carries nothing


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Records of each seed, pictures of the first, and report.md: the run's result."""
    whole = examples_of(fitted.model, data.test, data.test_labels)
    test = jax.tree.map(lambda x: x[: config.eval_limit], whole)
    records = records_of_seeds(config, fitted, test, folder)
    made = _pictures(config, fitted, test, folder)
    learning_curves(folder.root, folder.metrics())
    looking.rates(folder.root / "rates.png", np.asarray(records[0].rates))
    (folder.root / "report.md").write_text(
        _report(config, data, fitted, records, folder, [*made, "rates", "curves"])
    )
    for seed, record in zip(config.seeds, records, strict=True):
        print(f"seed {seed}, step {fitted.step}: {record}")
    found = {str(seed): record.as_dict() for seed, record in zip(config.seeds, records, strict=True)}
    return {"records": found, "step": fitted.step}


def _pictures(config, fitted, test, folder):
    """Samples, reconstructions, and what each layer encodes, where the examples are images."""
    if len(fitted.spec.event_shape) != 3:
        return []
    model, params, scale = fitted.model.parts, fitted.params, top(fitted.spec)
    model = model._replace(infer=jax.jit(model.infer), decode=jax.jit(model.decode))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1), 6)
    given = jax.tree.map(np.asarray, fitted.model.split(test))
    head = lambda count: jax.tree.map(lambda a: jnp.asarray(a[:count], jnp.float32), given)
    columns = min(10, fitted.spec.classes) if fitted.model.labels else 10
    classes = _classes(fitted, columns)
    shape, title = ((100,), "draws from p(x)") if classes is None else ((10,), "draws from p(x|c), by class")
    drawn, _ = jax.jit(lambda key: model.density.sample(params, key, classes, shape))(keys[0])
    drawn = np.asarray(drawn).reshape(-1, *fitted.spec.event_shape) / scale
    above = () if classes is None else tuple(map(str, range(columns)))
    pictures.grid(folder.root / "samples.png", drawn, columns, title, above=above)
    x, context = unpack(head(20))
    again, _ = model.decode(params, model.infer(params, keys[1], head(20)), context=context)
    pictures.grid(
        folder.root / "reconstructions.png",
        np.concatenate([x, again]) / scale,
        len(x),
        "test images, and below them p(x|z), z ~ q(z|x)",
    )
    looking.temperatures(
        folder.root / "temperatures.png", model, params, keys[2], scale, _classes(fitted, 10)
    )
    looking.kept_layers(
        folder.root / "layers.png", model, params, head(10), keys[3], config.temperature, scale
    )
    looking.interpolations(folder.root / "interpolations.png", model, params, head(2), keys[4], scale)
    looking.walk(folder.root, model, params, keys[5], config.temperature, scale, _classes(fitted, 8))
    return ["samples", "reconstructions", "temperatures", "layers", "interpolations", "walk"]


def _classes(fitted, count):
    """The contexts of the labels 0, 1, ..., again from 0 after the last; None of a model that is given none."""
    if not fitted.model.labels:
        return None
    labels = jnp.arange(count) % fitted.spec.classes
    return unpack(fitted.model.split((jnp.zeros((count, *fitted.spec.event_shape)), labels)))[1]


def _report(config, data, fitted, records, folder, made):
    def row(seed, r):
        return (
            f"| {seed} | {r.log_likelihood:.2f} ± {r.standard_error:.2f} "
            f"| {r.bits_per_dim:.4f} ± {r.bits_standard_error:.4f} | {r.elbo:.2f} | {r.reconstruction:.2f} | {r.kl:.2f} "
            f"| {'-' if r.effective_samples is None else f'{r.effective_samples:.1f}'} |"
        )

    rows = "\n".join(row(seed, record) for seed, record in zip(config.seeds, records, strict=True))
    first, names = records[0], dict.fromkeys(made)
    given = "" if config.condition is None else f", given {config.condition}"
    each = zip(fitted.model.parts.sizes, first.rates, first.layer_units, strict=True)
    layers = "\n".join(
        f"| {number} | {size} | {rate:.2f} | {units} |"
        for number, (size, rate, units) in enumerate(each, start=1)
    )
    silent = sum(rate < DEAD for rate in first.rates)
    dead = first.layer_units.count(0)
    shown = "\n".join(f"![{name}]({name}.png)" for name in names)
    film = "\nThe walk as a film: [walk.gif](walk.gif).\n" if "walk" in names else ""
    return f"""# Hierarchical VAE on {data.name}

{config.layers} layers: a top latent of {config.latent_dim} numbers under the prior {config.prior}, then groups {config.groups} of
{config.latents} numbers or channels, cells {config.cells}, inference {config.inference}, objective {config.objective}{given}.

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
Evaluated: {first.examples} test examples, estimator `{first.estimator}` with K = {first.samples}, checkpoint of step
{fitted.step}, {folder.seconds():.0f} s of training. Likelihoods in nats; ± is the standard error over examples.

| seed | log p(x) | bits/dim | ELBO | reconstruction | KL | effective samples |
|---|---|---|---|---|---|---|
{rows}

| layer, from the top | numbers | rate, nats | active units |
|---|---|---|---|
{layers}

A unit is active where its posterior mean, less the prior's and in its standard deviations, has a variance above {ACTIVE:g} over
the test examples. Dead layers, without an active unit: {dead} of {config.layers}; with a rate below {DEAD} nats: {silent}.
{film}
{shown}

Settings: `config.json`; versions and devices: `manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
