"""Fit probabilistic PCA in closed form, by EM or by gradient ascent, evaluate it exactly, and write a report with pictures.

python -m experiments.ppca                                  # embedded digits, seconds
python -m experiments.ppca --data freyfaces --latent-dim 2 5 10 20 50 100
python -m experiments.ppca --data freyfaces --latent-dim 10 --method em
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from dlvm_jax import data as datasets
from dlvm_jax.evaluate import pictures
from dlvm_jax.evaluate.likelihood import ACTIVE, Record
from dlvm_jax.functional import linear_gaussian
from dlvm_jax.functional.densities import bits_per_dim
from dlvm_jax.train import engine, loop, optimisers, parallel
from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common

log_evidence = jax.jit(linear_gaussian.log_evidence)


@dataclasses.dataclass(frozen=True)
class Config:
    """Fit probabilistic PCA, evaluate it on the test set, and write a report with pictures."""

    data: str = "digits"
    """data set of grey levels: digits (embedded), mnist, fashion_mnist, omniglot, freyfaces, cifar10"""
    protocol: str = "scaled"
    """split and transformation by name: scaled (grey / highest grey) or dequantised"""
    latent_dim: tuple[int, ...] = (2, 5, 10, 20)
    """dimensions of the latent space, one model for each"""
    method: Literal["closed", "em", "gradient"] = "closed"
    """closed form, EM on all of the training set, or Adam on minibatches"""
    steps: int | None = None
    """iterations of em (default 1000) or steps of gradient (default 10000)"""
    batch_size: int = 100
    """examples of a step of gradient"""
    learning_rate: float = 3e-3
    """peak learning rate of gradient; it falls to zero along a cosine"""
    code_step: tuple[float, ...] = (2.0, 1.0, 0.5, 0.25)
    """quantisation steps of the lossy code, in standard deviations of the prior"""
    seed: int = 0
    """random seed of starting values, minibatches and samples"""
    out: Path | None = None
    """run folder; default runs/ppca-DATA-001, 002, ..."""


def check(config):
    """Raise ValueError for settings that are impossible or contradict each other."""
    if not config.latent_dim or len(set(config.latent_dim)) < len(config.latent_dim):
        raise ValueError(
            f"give different latent dimensions, as in --latent-dim 2 10; got {list(config.latent_dim)}"
        )
    if config.method == "closed" and config.steps is not None:
        raise ValueError("--steps belongs to --method em or gradient; the closed form has none")
    if config.method != "gradient" and config.batch_size != Config.batch_size:
        raise ValueError(f"--batch-size belongs to --method gradient, not {config.method}")
    common.at_least("steps", config.steps, 1)
    common.at_least("batch_size", config.batch_size, 1)
    if not all(0 < step < math.inf for step in config.code_step):
        raise ValueError(f"a quantisation step is positive, got {list(config.code_step)}")
    if config.out is not None and (config.out / "result.json").exists():
        raise ValueError(f"{config.out} already holds a run; choose another --out")


def load(config):
    """The data set, and its training and test examples as float64 [N, D]."""
    names = [p.name for p in datasets.protocols(config.data)]
    if "levels" not in names:
        raise ValueError(
            f"pPCA is a density of real values, and {config.data} holds bits; use grey levels, such as --data mnist"
        )
    dataset = datasets.load(config.data, config.protocol)
    if dataset.discrete:
        raise ValueError(
            f"pPCA is a density of real values, the protocol {config.protocol!r} is discrete; "
            "use --protocol scaled or dequantised"
        )
    train = jax.jit(dataset.preprocess)(jax.random.key(config.seed), dataset.train)
    return dataset, *(np.asarray(x, np.float64).reshape(len(x), -1) for x in (train, dataset.test))


def _start(key, x, latent):
    """A random model about the data's mean: gradient ascent hardly moves a mean that is wrong along a column of W."""
    w = jax.random.normal(key, (x.shape[1], latent)) / math.sqrt(x.shape[1])
    return linear_gaussian.LinearGaussian(w, jnp.asarray(x.mean(0), w.dtype), jnp.zeros(()))


def fit_em(config, x, latent, folder):
    """EM in float64 from a random start; logs the training log-evidence before each step, and returns model and log."""
    steps, started, x = config.steps or 1000, time.monotonic(), jnp.asarray(x)
    folder.rewind(-1)

    @jax.jit
    def step(model, x):
        return linear_gaussian.ppca_em_step(model, x), linear_gaussian.log_evidence(model, x).mean()

    model = _start(jax.random.key(config.seed), x, latent)
    for number in tqdm(range(steps), unit="step", desc=f"EM, {latent} dimensions", dynamic_ncols=True):
        model, value = step(model, x)
        folder.log(number, {"train_log_likelihood": float(value)}, time.monotonic() - started)
    lines = folder.metrics()
    return model, ([line["step"] for line in lines], [line["train_log_likelihood"] for line in lines])


def fit_gradient(config, x, latent, folder):
    """Adam on minibatches in float32, with the engine of all models; returns model and log."""
    steps = config.steps or 10000

    def objective(params, key, batch, step=None):
        value = linear_gaussian.log_evidence(params, batch).mean()
        return -value, {"bound": value}

    with jax.enable_x64(False):
        trainer = engine.build(
            objective,
            lambda key: _start(key, x, latent),
            optimisers.make("adam", config.learning_rate, steps, schedule="cosine"),
            devices=parallel.devices_for(config.batch_size),
        )
        train = trainer.put(x.astype(np.float32))
        evidence = jax.jit(lambda params, x: linear_gaussian.log_evidence(params, x).mean())
        state = loop.fit(
            trainer,
            loop.TrainConfig(steps, config.batch_size, max(1, steps // 50), seeds=(config.seed,)),
            train,
            trainer.init(config.seed),
            folder=folder,
            validate=lambda params: {"score": -float(evidence(params, train))},  # on all of the training set
        )
        model = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trainer.eval_params(state))
    lines = folder.metrics()
    return model, ([line["step"] for line in lines], [-line["valid_score"] for line in lines])


def principal(model):
    """The same density in a latent space rotated to the principal axes, largest first."""
    axes, scale, _ = jnp.linalg.svd(model.w, full_matrices=False)
    return model._replace(w=axes * scale)


def record_of(model, x, dataset):
    """The exact record of a model on examples [N, D]."""
    nats = np.asarray(log_evidence(model, x))
    return Record(
        estimator="exact",
        samples=1,
        examples=len(x),
        protocol=dataset.protocol.name,
        protocol_hash=dataset.protocol.hash,
        kind="exact",
        log_likelihood=float(nats.mean()),
        standard_error=float(nats.std(ddof=1) / math.sqrt(len(nats))),
        bits_per_dim=float(bits_per_dim(nats.mean(), x.shape[1:], dataset.bin_width)),
        active_units=int((linear_gaussian.posterior(model, x)[0].var(0) > ACTIVE).sum()),
    )


def run(config):
    """One experiment from configuration to report."""
    check(config)
    dataset, train, test = load(config)
    with jax.enable_x64(True):  # so that the methods can be compared to many digits
        best = {latent: linear_gaussian.ppca_fit(train, latent) for latent in config.latent_dim}
        root = config.out or common.new_folder(f"ppca-{config.data}")
        folder = RunFolder(root)
        folder.write("config.json", common.settings(config))
        folder.write("manifest.json", manifest())
        about = (
            f"{dataset.protocol.description} (protocol {dataset.protocol.name}, hash {dataset.protocol.hash})"
        )
        print(f"{config.data}: {about}\nrun folder {root}")
        models, rows, curves = {}, {}, {}
        for latent in config.latent_dim:
            model = best[latent]
            optimum = float(log_evidence(model, train).mean())
            if config.method != "closed":
                by_steps = {"em": fit_em, "gradient": fit_gradient}[config.method]
                fitted, curve = by_steps(config, train, latent, RunFolder(root / f"latent-{latent}"))
                model = principal(fitted)
                curves[f"{config.method}, {latent} dimensions"] = curve
                curves[f"closed form, {latent} dimensions"] = [0, curve[0][-1]], [optimum] * 2
            record, models[latent] = record_of(model, test, dataset), model
            rows[latent] = {
                **record.as_dict(),
                "train_log_likelihood": float(log_evidence(model, train).mean()),
                "closed_form_train_log_likelihood": optimum,
                "noise_std": math.exp(model.log_std),
                "active_units_in_theory": int(
                    (linear_gaussian.posterior_mean_variance(model) > ACTIVE).sum()
                ),
            }
            print(f"{latent} dimensions: {record}")
        codes = _codes(config, models[max(models)], test)
        _pictures(root, config, dataset, models, test, curves)
    (root / "report.md").write_text(_report(config, about, rows, codes, bool(curves)))
    folder.write("result.json", {"records": rows, "codes": codes})
    print(f"report in {root / 'report.md'}")


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


def _pictures(root, config, dataset, models, x, curves):
    """Mean and principal directions, reconstructions, samples, coded images, latent space, and learning curves."""
    shape, columns, widest = dataset.train.shape[1:], 12, models[max(models)]
    shown = x[:columns]

    def grid(name, rows, title):
        pictures.grid(root / f"{name}.png", np.concatenate(rows).reshape(-1, *shape), columns, title)

    axes = np.asarray(widest.w.T[: 2 * columns - 1])
    axes = 0.5 + 0.5 * axes / np.abs(axes).max(axis=1, keepdims=True)
    grid("components", [np.asarray(widest.mean)[None], axes], "mean, and principal directions (zero is grey)")
    latents = ", ".join(map(str, models))
    rows = [shown, *(linear_gaussian.reconstruct(model, shown) for model in models.values())]
    grid("reconstructions", rows, f"test images, and below them reconstructions from {latents} dimensions")
    z = {m: jax.random.normal(jax.random.key(config.seed), (columns, m)) for m in models}
    rows = [z[m] @ model.w.T + model.mean for m, model in models.items()]
    grid("samples", rows, f"means of p(x|z), z ~ p(z), with {latents} dimensions")
    rows = [shown, *(linear_gaussian.code(widest, shown, step).reconstruction for step in config.code_step)]
    steps = ", ".join(f"{step:g}" for step in config.code_step)
    grid("coded", rows, f"test images, and below them decoded from steps {steps}")
    means, _ = linear_gaussian.posterior(widest, x)
    pictures.latent_scatter(root / "latent.png", means, dataset.test_labels, "posterior means of test images")
    if curves:
        pictures.curves(root / "curves.png", curves, "training log p(x), nats")


def _report(config, about, rows, codes, curves):
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
    return f"""# Probabilistic PCA on {config.data}

{about}.
Fitted by `{config.method}`; the exact log-density of {examples} test examples, in nats; ± is the standard error over examples.
The gap is the training log-density of the closed form less that of the model. Active units on test data, and in theory.

| latent dimensions | log p(x) | bits/dim | training log p(x) | gap | noise std | active units |
|---|---|---|---|---|---|---|
{table}

Lossy code of the {max(rows)}-dimensional model on test data: the latent mean rounded to a grid, its rate under the model.

| step | rate, nats | rate, bits/dim | squared error a pixel |
|---|---|---|---|
{coded}

![mean and principal directions](components.png)
![reconstructions](reconstructions.png)
![samples](samples.png)
![coded images](coded.png)
![latent space](latent.png)
{"![learning curves](curves.png)" if curves else ""}

Settings: `config.json`; versions and devices: `manifest.json`; figures above: `result.json`.
"""


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
