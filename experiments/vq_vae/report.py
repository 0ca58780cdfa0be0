"""Evaluation, pictures and report of a trained VQ-VAE and the prior of its codes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import evaluation_key, log_likelihood, paired, pictures
from dlvm_jax.functional.vector_quantisation import perplexity
from dlvm_jax.models.objectives import unpack
from dlvm_jax.recipes.base import examples_of
from dlvm_jax.recipes.networks import top
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.evaluation import learning_curves, records_of_seeds
from experiments.vq_vae.prior import SecondStage, under

if TYPE_CHECKING:
    from experiments.vq_vae.__main__ import Config

__all__ = ["code_use", "colours", "evaluate_and_write"]

DRAWN, SHOWN = 100, 12


def evaluate_and_write(
    config: "Config", data: Data, fitted: Fitted, folder: RunFolder, second: SecondStage
) -> Mapping[str, Any]:
    """The bound under the uniform prior of each seed, under the learned one of the first, pictures, report.md: the result."""
    test = examples_of(fitted.model, data.test, data.test_labels)
    test = jax.tree.map(lambda a: a[: config.eval_limit], test)
    records = records_of_seeds(config, fitted, test, folder)
    codes, prior = second
    joined = under(fitted, prior)
    learned = log_likelihood(
        joined,
        test,
        samples=config.eval_samples,
        key=evaluation_key(config.seeds[0]),
        folder=folder.root / "evaluation",
    )
    result = {
        "records": {str(s): record.as_dict() for s, record in zip(config.seeds, records, strict=True)},
        "learned": learned.as_dict(),
        "gain": paired(np.asarray(learned.per_example) - np.asarray(records[0].per_example)),
        "use": code_use(np.asarray(codes.train), codes.levels),
        "step": fitted.step,
        "prior_step": prior.step,
    }
    made = _pictures(fitted, joined, test, folder, config.seeds[0])
    learning_curves(folder.root, folder.metrics())
    report = _report(config, data, fitted, prior, result, folder, [*made, "curves"])
    (folder.root / "report.md").write_text(report)
    print(report)
    return result


def code_use(codes: np.ndarray, levels: int) -> dict[str, float]:
    """Perplexity of codes over an epoch, the share of them that is used at all, and how many there are."""
    counts = np.bincount(codes.ravel(), minlength=levels)
    return {
        "perplexity": float(perplexity(jnp.asarray(counts))),
        "used": float((counts > 0).mean()),
        "codes": levels,
    }


def colours(fitted: Fitted) -> np.ndarray:
    """A colour of each code [K, 3] on [0, 1]: the first three principal components, so that codes alike look alike."""
    parts = fitted.model.parts
    vectors = parts.quantiser.codes(parts.whole(fitted.params)["book"], jnp.arange(parts.quantiser.levels))
    vectors = np.asarray(vectors, float)
    _, _, axes = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    found = np.zeros((len(vectors), 3))
    found[:, : len(axes[:3])] = vectors @ axes[:3].T
    low, high = found.min(0), found.max(0)
    return (found - low) / np.where(high > low, high - low, 1.0)


def _pictures(fitted, joined, test, folder, seed):
    """Codes and reconstructions of test images, and images of codes of both priors."""
    if len(fitted.spec.event_shape) != 3:
        return []
    scale, (height, width, channels) = top(fitted.spec), fitted.spec.event_shape
    key = jax.random.fold_in(jax.random.key(seed), 2**31 + 1)
    decode = jax.jit(fitted.decode)
    given = np.arange(DRAWN) % fitted.spec.classes if fitted.model.labels else None
    for name, of in (("uniform", fitted), ("learned", joined)):
        prior, params = of.model.parts.prior, of.model.parts.whole(of.params)["prior"]
        index, _ = jax.jit(lambda params, prior=prior: prior.sample(params, key, shape=(DRAWN,)))(params)
        images = np.asarray(decode(index, given)) / scale
        title = f"means of p(x|k), codes k of the {name} prior"
        pictures.grid(folder.root / f"samples_{name}.png", images, 10, title)
    x, labels = jax.tree.map(lambda a: np.asarray(a[:SHOWN]), unpack(test))
    x = jnp.asarray(x, jnp.float32)
    index = np.asarray(jax.jit(fitted.model.encode)(fitted.params, x))
    maps = colours(fitted)[index[:, :, :: fitted.recipe.maps, 0]]  # of several codes at a place the first
    maps = maps.repeat(height // maps.shape[1], 1).repeat(width // maps.shape[2], 2)
    rows = [np.asarray(x) / scale, np.asarray(decode(index, labels)) / scale]
    if channels != 3:
        rows = [np.repeat(images[..., :1], 3, axis=-1) for images in rows]
    pictures.grid(
        folder.root / "codes.png",
        np.concatenate([rows[0], maps, rows[1]]),
        len(x),
        "test images, their codes (codes alike have colours alike), and the means of p(x|k)",
        scale=max(1, round(720 / (SHOWN * width))),
    )
    return ["samples_uniform", "samples_learned", "codes"]


def _report(config, data, fitted, prior, result, folder, made):
    learned, use = result["learned"], result["use"]
    grid = " x ".join(map(str, fitted.recipe.grid(fitted.spec)))

    def row(name, record):
        return (
            f"| {name} | {record['log_likelihood']:.2f} ± {record['standard_error']:.2f} "
            f"| {record['bits_per_dim']:.4f} ± {record['bits_standard_error']:.4f} "
            f"| {record['reconstruction']:.2f} | {record['kl']:.2f} |"
        )

    rows = [row(f"uniform, seed {seed}", record) for seed, record in result["records"].items()]
    rows.append(row(f"{prior.recipe.net}, seed {config.seeds[0]}", learned))
    shown = "\n".join(f"![{name}]({name}.png)" for name in made)
    gain, error = result["gain"]
    return f"""# VQ-VAE of {data.name}

Quantiser {config.quantiser}, a grid of {grid} codes of {use["codes"]}, gradient {config.gradient}.

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
Evaluated: {learned["examples"]} test examples; VQ-VAE of step {result["step"]}, {folder.seconds():.0f} s of training;
prior of step {result["prior_step"]}.
The bound log p(x|k) + log p(k) at the encoder's codes k, in nats; ± is the standard error over examples.

| prior of codes | bound | bits/dim | log p(x\\|k) | -log p(k) |
|---|---|---|---|---|
{chr(10).join(rows)}

The learned prior gains {gain:+.2f} ± {error:.2f} nats.

Codes of the training examples: perplexity {use["perplexity"]:.1f} of {use["codes"]}, {use["used"]:.1%} of them used.

{shown}

Settings: `config.json`; versions and devices: `manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
The prior's run: folder `prior`.
"""
