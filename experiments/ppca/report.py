"""Exact records, pictures and report of probabilistic PCA."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import pictures
from dlvm_jax.evaluate.likelihood import Record
from dlvm_jax.evaluate.units import ACTIVE
from dlvm_jax.functional import linear_gaussian
from dlvm_jax.functional.densities import bits_per_dim
from dlvm_jax.functional.linear_gaussian import LinearGaussian
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder

if TYPE_CHECKING:
    from experiments.ppca.__main__ import Config

__all__ = ["evaluate_and_write", "principal", "record_of"]

log_evidence = jax.jit(linear_gaussian.log_evidence)


def evaluate_and_write(
    config: "Config", data: Data, fitted: Mapping[int, Fitted], root: Path
) -> dict[str, Any]:
    """Records by latent dimension, the lossy code, pictures and report.md: the run's result.  In double precision."""
    train = np.asarray(jax.jit(data.preprocess)(jax.random.key(config.seeds[0]), data.train), np.float64)
    train, test = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (train, data.test))
    models, rows, curves = {}, {}, {}
    for latent, found in fitted.items():
        closed = config.method == "closed"  # whose axes are principal
        models[latent] = found.params if closed else principal(found.params)
        optimum = float(log_evidence(linear_gaussian.ppca_fit(train, latent), train).mean())
        if not closed:
            history = RunFolder(found.folder).metrics()
            steps, bounds = ([line[name] for line in history] for name in ("step", "bound"))
            curves[f"{config.method}, {latent} dimensions"] = steps, bounds
            curves[f"closed form, {latent} dimensions"] = [0, steps[-1]], [optimum] * 2
        rows[latent] = _row(models[latent], train, test, data, optimum)
        print(f"{latent} dimensions: {record_of(models[latent], test, data)}")
    codes = _codes(config, models[max(models)], test)
    made = _pictures(root, config, data, models, test, curves)
    (root / "report.md").write_text(_report(config, data, rows, codes, made))
    return {"records": rows, "codes": codes}


def principal(model: LinearGaussian) -> LinearGaussian:
    """The same density in a latent space rotated to the principal axes, largest first."""
    axes, scale, _ = jnp.linalg.svd(model.w, full_matrices=False)
    return model._replace(w=axes * scale)


def record_of(model: LinearGaussian, x: np.ndarray, data: Data) -> Record:
    """The exact record of a model on examples [N, D]."""
    nats = np.asarray(log_evidence(model, x))
    return Record(
        estimator="exact",
        samples=1,
        examples=len(x),
        protocol=data.protocol.name,
        protocol_hash=data.protocol.hash,
        kind="exact",
        log_likelihood=float(nats.mean()),
        standard_error=float(nats.std(ddof=1) / math.sqrt(len(nats))),
        bits_per_dim=float(bits_per_dim(nats.mean(), x.shape[1:], data.bin_width)),
        active_units=int((linear_gaussian.posterior(model, x)[0].var(0) > ACTIVE).sum()),
    )


def _row(model, train, test, data, optimum):
    """The figures of one model."""
    return {
        **record_of(model, test, data).as_dict(),
        "train_log_likelihood": float(log_evidence(model, train).mean()),
        "closed_form_train_log_likelihood": optimum,
        "noise_std": math.exp(model.log_std),
        "active_units_in_theory": int((linear_gaussian.posterior_mean_variance(model) > ACTIVE).sum()),
    }


def _codes(config, model, x):
    """Rate and distortion of the lossy code at each quantisation step."""
    rows = []
    for step in config.code_step:
        coded = linear_gaussian.code(model, x, step)
        rate = float(coded.rate.mean())
        error = float(jnp.square(x - coded.reconstruction).mean())
        rows.append(
            {"step": step, "rate": rate, "rate_bits_per_dim": rate / (x.shape[1] * math.log(2)), "mse": error}
        )
    return rows


def _pictures(root, config, data, models, x, curves):
    """Pictures of images or of a plane, latent space, and learning curves; the names of those made."""
    shape, widest = data.train.shape[1:], models[max(models)]
    made = []
    if len(shape) == 3:
        _image_pictures(root, config, shape, models, x)
        made += ["components", "reconstructions", "samples", "coded"]
    elif shape == (2,):
        _plane(root / "projections.png", models[1], x)
        made.append("projections")
    means, _ = linear_gaussian.posterior(widest, x)
    pictures.latent_scatter(root / "latent.png", means, data.test_labels, "posterior means of test examples")
    made.append("latent")
    if curves:
        pictures.curves(root / "curves.png", curves, "training log p(x), nats")
        made.append("curves")
    return made


def _plane(path, model, x):
    """Points of a plane, the line of the model, and the projections of some points on it."""
    figure = pictures.new_figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    few = x[:40]
    ends = linear_gaussian.reconstruct(model, few)
    along = np.linspace(-3, 3, 2)[:, None] * np.asarray(model.w[:, 0]) + np.asarray(model.mean)
    axes.scatter(x[:, 0], x[:, 1], s=2, alpha=0.3, label="test points")
    axes.plot(along[:, 0], along[:, 1], "k", label="line of the model, 3 standard deviations each way")
    axes.plot(*np.stack([few, ends]).transpose(2, 0, 1), color="C1", lw=0.8)
    axes.scatter(ends[:, 0], ends[:, 1], s=8, color="C1", label="projections")
    axes.set(aspect="equal")
    figure.legend(loc="outside lower center", fontsize=8)
    figure.savefig(path, dpi=120)


def _image_pictures(root, config, shape, models, x):
    """Mean and principal directions, reconstructions, samples, coded images."""
    columns, widest = 12, models[max(models)]
    shown = x[:columns]

    def grid(name, rows, title):
        pictures.grid(root / f"{name}.png", np.concatenate(rows).reshape(-1, *shape), columns, title)

    axes = np.asarray(widest.w.T[: 2 * columns - 1])
    axes = 0.5 + 0.5 * axes / np.abs(axes).max(axis=1, keepdims=True)
    grid("components", [np.asarray(widest.mean)[None], axes], "mean, and principal directions (zero is grey)")
    latents = ", ".join(map(str, models))
    rows = [shown, *(linear_gaussian.reconstruct(model, shown) for model in models.values())]
    grid("reconstructions", rows, f"test images, and below them reconstructions from {latents} dimensions")
    z = {m: jax.random.normal(jax.random.key(config.seeds[0]), (columns, m)) for m in models}
    rows = [z[m] @ model.w.T + model.mean for m, model in models.items()]
    grid("samples", rows, f"means of p(x|z), z ~ p(z), with {latents} dimensions")
    rows = [shown, *(linear_gaussian.code(widest, shown, step).reconstruction for step in config.code_step)]
    steps = ", ".join(f"{step:g}" for step in config.code_step)
    grid("coded", rows, f"test images, and below them decoded from steps {steps}")


def _report(config, data, rows, codes, made):
    """The report as Markdown."""
    table = "\n".join(
        f"| {latent} | {row['log_likelihood']:.2f} ± {row['standard_error']:.2f} | {row['bits_per_dim']:.3f} "
        f"| {row['train_log_likelihood']:.2f} "
        f"| {row['closed_form_train_log_likelihood'] - row['train_log_likelihood']:.1e} | {row['noise_std']:.4f} "
        f"| {row['active_units']} ({row['active_units_in_theory']}) |"
        for latent, row in rows.items()
    )
    coded = "\n".join(
        f"| {row['step']:g} | {row['rate']:.2f} | {row['rate_bits_per_dim']:.4f} | {row['mse']:.6f} |"
        for row in codes
    )
    examples = next(iter(rows.values()))["examples"]
    shown = "\n".join(f"![{name}]({name}.png)" for name in made)
    return f"""# Probabilistic PCA on {data.name}

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
Fitted by `{config.method}`; the exact log-density of {examples} test examples, in nats; ± is the standard error over examples.
The gap is the training log-density of the closed form less that of the model. Active units on test data, and in theory.

| latent dimensions | log p(x) | bits/dim | training log p(x) | gap | noise std | active units |
|---|---|---|---|---|---|---|
{table}

Lossy code of the {max(rows)}-dimensional model on test data: the latent mean rounded to a grid, its rate under the model.

| step | rate, nats | rate, bits/dim | squared error an element |
|---|---|---|---|
{coded}

{shown}

Settings: `config.json`; versions and devices: `manifest.json`; figures above: `result.json`.
"""
