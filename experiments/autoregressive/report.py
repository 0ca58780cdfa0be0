"""Evaluation, pictures and report of a trained autoregressive model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import pictures
from dlvm_jax.models.objectives import unpack
from dlvm_jax.recipes.base import examples_of
from dlvm_jax.recipes.networks import top
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.evaluation import learning_curves, records_of_seeds

if TYPE_CHECKING:
    from experiments.autoregressive.__main__ import Config

__all__ = ["evaluate_and_write"]

DRAWN, COLUMNS, COMPLETIONS = 100, 10, 5


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Records of each seed, samples of the first, and report.md: the run's result."""
    test = examples_of(fitted.model, data.test, data.test_labels)
    test = jax.tree.map(lambda a: a[: config.eval_limit], test)
    records = records_of_seeds(config, fitted, test, folder)
    made = ["samples"] if _samples(config, fitted, folder) else []
    made += ["completions"] if _completions(config, fitted, test, folder) else []
    learning_curves(folder.root, folder.metrics())
    (folder.root / "report.md").write_text(_report(config, data, fitted, records, folder, [*made, "curves"]))
    for seed, record in zip(config.seeds, records, strict=True):
        print(f"seed {seed}, step {fitted.step}: {record}")
    found = {str(seed): record.as_dict() for seed, record in zip(config.seeds, records, strict=True)}
    return {"records": found, "step": fitted.step}


def _samples(config, fitted, folder):
    """A grid of draws, where the examples are images; a column a class, where they are given."""
    if len(fitted.spec.event_shape) != 3 or fitted.model.part:
        return False
    key = jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1)
    given = jnp.arange(DRAWN) % fitted.spec.classes if fitted.model.labels else None
    drawn = fitted.sample(key, 1 if fitted.model.labels else DRAWN, given=given)
    drawn = np.asarray(drawn).reshape(DRAWN, *fitted.spec.event_shape)
    columns = min(fitted.spec.classes, COLUMNS) if fitted.model.labels else COLUMNS
    title = "draws from p(x | label), a class a column" if fitted.model.labels else "draws from p(x)"
    pictures.grid(folder.root / "samples.png", drawn / top(fitted.spec), columns, title)
    return True


def _completions(config, fitted, test, folder):
    """Test images, and below them draws of their lower halves given the upper ones, where the examples are images."""
    complete, event = fitted.model.density.complete, fitted.spec.event_shape
    if len(event) != 3 or fitted.model.part or complete is None:
        return False
    few = jax.tree.map(lambda a: jnp.asarray(a[:COLUMNS], jnp.float32), test)
    x, context = unpack(fitted.model.split(few))
    key = jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 2)
    repeated = jnp.broadcast_to(x, (COMPLETIONS, *x.shape))
    known = event[0] // 2 * event[1] * event[2]
    drawn = jax.jit(complete, static_argnums=3)(fitted.params, key, repeated, known, context)
    images = np.concatenate([x[None], drawn]).reshape(-1, *event)
    title = "test images, and below them draws given their upper halves"
    pictures.grid(folder.root / "completions.png", images / top(fitted.spec), len(x), title)
    return True


def _report(config, data, fitted, records, folder, made):
    row = lambda seed, r: (
        f"| {seed} | {r.log_likelihood:.2f} ± {r.standard_error:.2f} "
        f"| {r.bits_per_dim:.4f} ± {r.bits_standard_error:.4f} |"
    )
    rows = "\n".join(row(seed, record) for seed, record in zip(config.seeds, records, strict=True))
    shown = "\n".join(f"![{name}]({name}.png)" for name in made)
    first = records[0]
    return f"""# Autoregressive model of {data.name}

Network {config.net}, likelihood {config.likelihood_of(fitted.spec)}, condition {config.condition or "none"}.

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
Evaluated: {first.examples} test examples, exactly, checkpoint of step {fitted.step}, {folder.seconds():.0f} s of training.
Likelihoods in nats; ± is the standard error over examples.

| seed | log p(x) | bits/dim |
|---|---|---|
{rows}

{shown}

Settings: `config.json`; versions and devices: `manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
