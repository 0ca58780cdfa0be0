"""Evaluation, pictures and report of a trained VAE."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import Record, evaluation_key, paired, pictures
from dlvm_jax.evaluate.annealed import annealed_log_likelihoods
from dlvm_jax.evaluate.diagnostics import diagnose
from dlvm_jax.evaluate.units import posterior_means
from dlvm_jax.models.density import join
from dlvm_jax.models.objectives import unpack
from dlvm_jax.models.spaces import REALS
from dlvm_jax.progress import Progress
from dlvm_jax.recipes.base import examples_of
from dlvm_jax.recipes.networks import top
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.evaluation import learning_curves, records_of_seeds

if TYPE_CHECKING:
    from experiments.vae.__main__ import Config

__all__ = ["evaluate_and_write"]


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Records of each seed, diagnostics and pictures of the first, and report.md: the run's result."""
    whole = examples_of(fitted.model, data.test, data.test_labels)
    test = jax.tree.map(lambda x: x[: config.eval_limit], whole)
    records = records_of_seeds(config, fitted, test, folder)
    given = jax.tree.map(np.asarray, fitted.model.split(test))
    further, annealing = _further(config, fitted, given, records[0].per_example)
    key = jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1)
    made = _pictures(folder.root, config, data, fitted, given, key)
    learning_curves(folder.root, folder.metrics())
    text = _report(config, data, fitted, records, further, folder, [*made, "curves"])
    (folder.root / "report.md").write_text(text)
    for seed, record in zip(config.seeds, records, strict=True):
        print(f"seed {seed}, step {fitted.step}: {record}")
    for name, line in further.items():
        print(f"{name}: {line}")
    found = {str(seed): record.as_dict() for seed, record in zip(config.seeds, records, strict=True)}
    return {"records": found, "step": fitted.step} | further | annealing


def _further(
    config: "Config", fitted: Fitted, test: Any, nats: np.ndarray
) -> tuple[dict[str, str], dict[str, Any]]:
    """What else is found out of the first seed, by name, each a line of text: diagnostics, annealing; and annealing's numbers.

    nats: log p(x) of each test example by importance weighting, to compare annealing with.
    """
    lines, numbers, parts, params = {}, {}, fitted.model.parts, fitted.params
    key, key_annealing = jax.random.split(jax.random.fold_in(evaluation_key(config.seeds[0]), 2**31))
    if config.condition is None and parts.posterior.normal is not None:
        lines["latent space"] = diagnose(parts, params, test[:1000], key=key).line()
    if config.ais:
        few = test[: config.ais_limit]
        with Progress("annealing", len(few), "example") as bar:
            record = annealed_log_likelihoods(
                parts,
                params,
                few,
                key=key_annealing,
                temperatures=config.ais,
                progress=lambda done: bar.advance(done - bar.done),
            )
        gap = *paired(record.log_likelihoods - nats[: len(few)]), len(few)
        lines["annealed importance sampling"] = (
            f"{record.line()}; {gap[0]:+.3f} +- {gap[1]:.3f} nats against importance weighting on the same examples"
        )
        numbers["annealed less importance-weighted"] = gap
    return lines, numbers


def _interpolated(codes, rows, columns):
    """Codes on straight lines between the first ones and those after them: [rows * columns, M]."""
    share = np.linspace(0, 1, columns)[None, :, None]
    ends = codes[:rows, None], codes[rows : 2 * rows, None]
    return ((1 - share) * ends[0] + share * ends[1]).reshape(rows * columns, -1)


def _decoded(decoder, params, z):
    """The means of p(x|z), or draws where pixels depend on those before them."""
    if decoder.mean is not None:
        return decoder.mean(params, z)
    return jax.jit(decoder.sample)(params, jax.random.key(0), z)[0]


def _samples(model, params, key, contexts, rows):
    """`_decoded` of z ~ p(z|c) and draws of p(x|c), each [contexts, rows, *event], or [rows * rows, *event] without a context."""
    key_prior, key_draw = jax.random.split(key)
    shape = (rows,) if contexts is not None else (rows * rows,)
    own = model.parts.tied(params)
    z, _ = model.parts.prior.sample(own["prior"], key_prior, contexts, shape)
    means = _decoded(model.parts.decoder, own["decoder"], join(z, contexts))
    drawn, _ = model.density.sample(params, key_draw, contexts, shape)
    if contexts is None:
        return means, drawn
    return jnp.swapaxes(means, 0, 1), jnp.swapaxes(drawn, 0, 1)


def _pictures(
    root: Path, config: "Config", data: Data, fitted: Fitted, test: Any, key: jax.Array
) -> list[str]:
    """Samples, reconstructions, latent space, and the manifold of a latent plane, else interpolations."""
    model, params = fitted.model, fitted.params
    parts = model.parts
    head = lambda count: jax.tree.map(lambda a: jnp.asarray(a[:count], jnp.float32), test)

    def grid(name, x, context, columns, title):
        images = np.asarray(model.merge(x, context), np.float32) / top(fitted.spec)
        pictures.grid(root / name, images.reshape(-1, *images.shape[-3:]), columns, title)

    key_sample, key_reconstruct = jax.random.split(key)
    _, contexts = unpack(head(10))
    means, drawn = _samples(model, params, key_sample, contexts, 10)
    shared = None if contexts is None else contexts[:, None]
    rows = "" if contexts is None else ", a row for each test image's context"
    what = "means of" if parts.decoder.mean else "draws from"
    grid("samples.png", means, shared, 10, f"{what} p(x|z), z ~ p(z){rows}")
    grid("samples_drawn.png", drawn, shared, 10, f"draws from p(x){rows}")
    x, context = unpack(head(20))
    own = parts.tied(params)
    z, _ = parts.posterior.sample(own["posterior"], key_reconstruct, join(x, context))
    again = _decoded(parts.decoder, own["decoder"], join(z, context))
    both = None if context is None else jnp.concatenate([context, context])
    title = "test images, and below them p(x|z), z ~ q(z|x)"
    grid("reconstructions.png", jnp.concatenate([x, again]), both, 20, title)
    made = ["samples", "reconstructions"]
    if parts.posterior.mean is not None:
        few = head(2000)
        labels = None if data.test_labels is None else data.test_labels[: len(unpack(few)[0])]
        codes = posterior_means(parts.posterior, own["posterior"], few)
        pictures.latent_scatter(root / "latent.png", codes, labels, "posterior means of test images")
        made.append("latent")
        if context is None and config.layers == 1 and parts.prior.space == REALS:
            flat = config.prior == "standard" and codes.shape[1] == 2
            z = (
                pictures.quantile_grid(codes, 20)
                if flat
                else _interpolated(codes, min(10, len(codes) // 2), 10)
            )
            name = "manifold" if flat else "interpolations"
            title = (
                "p(x|z) on the plane, at the quantiles of the codes of test images"
                if flat
                else "p(x|z) on straight lines between the codes of test images"
            )
            means = _decoded(parts.decoder, own["decoder"], jnp.asarray(z, jnp.float32))
            grid(f"{name}.png", means, None, 20 if flat else 10, title)
            made.append(name)
    return made


def _report(
    config: "Config",
    data: Data,
    fitted: Fitted,
    records: list[Record],
    further: dict[str, str],
    folder: RunFolder,
    made: list[str],
) -> str:
    def row(seed, r):
        units = "-" if r.active_units is None else f"{r.active_units} of {config.code_dim}"
        effective = "-" if r.effective_samples is None else f"{r.effective_samples:.1f}"
        return (
            f"| {seed} | {r.log_likelihood:.2f} ± {r.standard_error:.2f} "
            f"| {r.bits_per_dim:.4f} ± {r.bits_standard_error:.4f} | {r.elbo:.2f} "
            f"| {r.reconstruction:.2f} | {r.kl:.2f} | {units} | {effective} |"
        )

    rows = "\n".join(row(seed, record) for seed, record in zip(config.seeds, records, strict=True))
    first = records[0]
    between = ""
    if len(records) > 1:
        values = [r.log_likelihood for r in records]
        between = (
            f"\nOver seeds: {np.mean(values):.2f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.2f} "
            "(standard error of the mean over seeds).\n"
        )
    given = "" if config.condition is None else f", given {config.condition}"
    counted = "On the sphere the units are the coordinates in space.\n" if config.prior == "sphere" else ""
    lines = "".join(f"\n{name.capitalize()}: {line}.\n" for name, line in further.items())
    shown = "\n".join(f"![{name}]({name}.png)" for name in made)
    likelihood = fitted.recipe.likelihood_of(fitted.spec)
    return f"""# VAE on {data.name}

Prior {config.prior}, posterior {config.posterior}, likelihood {likelihood}, objective {config.objective}{given};
{config.layers} layer(s) of {config.latent_dim} latent units.

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
Evaluated: {first.examples} test examples, estimator `{first.estimator}` with K = {first.samples}, checkpoint of step
{fitted.step}, {folder.seconds():.0f} s of training. Likelihoods in nats; ± is the standard error over examples.
{counted}
| seed | log p(x) | bits/dim | ELBO | reconstruction | KL | active units | effective samples |
|---|---|---|---|---|---|---|---|
{rows}
{between}{lines}
{shown}

Draws with the likelihood's own noise: [samples_drawn.png](samples_drawn.png). Settings: `config.json`; versions and devices:
`manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
