"""Measurements, pictures and report of a trained autoencoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import pictures
from dlvm_jax.functional import autoencoding, divergences
from dlvm_jax.models import autoencoder
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder

if TYPE_CHECKING:
    from experiments.autoencoder.__main__ import Config

__all__ = ["accuracy", "auc", "effective_units", "evaluate_and_write", "pca"]

MOST = 10_000  # examples a measurement uses at most, so that it fits in memory at once


def auc(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """P(a score of `outside` exceeds one of `inside`), ties counting half, and its standard error (DeLong et al. 1988)."""

    def placements(scores, among):
        among = np.sort(among)
        return (np.searchsorted(among, scores, "left") + np.searchsorted(among, scores, "right")) / (
            2 * len(among)
        )

    above, below = placements(outside, inside), placements(inside, outside)
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    return float(above.mean()), float(np.sqrt(variance))


def pca(x: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and the `dim` leading principal axes [D, dim] of examples [n, D]."""
    mean = x.mean(0)
    _, axes = np.linalg.eigh(np.cov(x.T, bias=True).astype(np.float64))
    return mean, axes[:, ::-1][:, :dim].astype(x.dtype)


def _mean(values):
    """Mean over examples and its standard error."""
    values = np.asarray(values, np.float64)
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def effective_units(codes: np.ndarray) -> np.ndarray:
    """Participation ratio (sum |z|)^2 / sum z^2 of each code: from 1, one unit at work, to k, all alike; free of scale."""
    codes = np.asarray(codes, np.float64)
    return np.abs(codes).sum(1) ** 2 / np.square(codes).sum(1)


def accuracy(fitted: Fitted, data: Data) -> tuple[float, float]:
    """Of a classifier on the test examples, with its binomial standard error."""
    logits = jax.jit(fitted.model.parts.logits)(fitted.params, np.asarray(data.test))
    value = float(autoencoder.accuracy(logits, data.test_labels))
    return value, float(np.sqrt(value * (1 - value) / len(logits)))


def evaluate_and_write(
    config: "Config",
    data: Data,
    outliers: Data | None,
    fitted: Fitted,
    classifiers: Mapping[str, Fitted],
    vae: Fitted | None,
    folder: RunFolder,
) -> Mapping[str, Any]:
    """Measurements of the first seed, pictures and report.md: the run's result."""
    labels = None if data.test_labels is None else data.test_labels[: config.eval_limit]
    data = data._replace(test=data.test[: config.eval_limit], test_labels=labels)
    result = {
        "step": fitted.step,
        "accuracy": {name: accuracy(trained, data) for name, trained in classifiers.items()},
        **_measure(config, data, outliers, fitted, vae),
    }
    shown = _pictures(config, data, fitted, vae, folder)
    (folder.root / "report.md").write_text(_report(config, data, folder.seconds(), result, shown))
    for group in ("accuracy", "squared_error", "code", "auc"):
        for name, (mean, standard_error) in result[group].items():
            print(f"{group.replace('_', ' ')}, {name}: {mean:.4g} ± {standard_error:.2g}")
    return result


def _mean(values):
    """Mean over examples and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _train_images(data):
    return np.asarray(data.preprocess(jax.random.key(0), data.train[:MOST]))


def _vae_codes(vae, x):
    """Posterior means and log-standard deviations."""
    return vae.model.parts.posterior.normal(vae.params["posterior"], x)


def _measure(config, data, outliers, fitted, vae):
    """What the report's tables hold: each a mean over test examples with its standard error."""
    model, params, test = fitted.model.parts, fitted.params, np.asarray(data.test[:MOST])
    train = _train_images(data)
    score = jax.jit(lambda x: autoencoder.outlier_score(model, params, x))
    noisy = fitted.recipe.corrupt(jax.random.key(config.seeds[0]), test)

    def squared_error(reconstruction, x=test):
        return autoencoding.squared_error(x, reconstruction, model.event_ndim)

    flat_train, flat_test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    mean, axes = pca(flat_train, config.latent_dim)
    projected = (mean + (flat_test - mean) @ axes @ axes.T).reshape(test.shape)
    denoised = jax.jit(lambda x: model.decode(params, model.encode(params, x)))(noisy)
    errors = {
        "autoencoder": score(test),
        "autoencoder, training examples": score(train),
        "autoencoder, from noisy input": squared_error(denoised),
        "the noisy input itself": squared_error(noisy),
        f"PCA with {config.latent_dim} axes": squared_error(projected),
        "mean image": squared_error(train.mean(0)),
    }
    codes = model.encode(params, test)
    few = test[:500]
    jacobian = autoencoding.contractive_penalty(lambda x: model.encode(params, x), few, model.event_ndim)
    code = {
        "l1 norm": _mean(autoencoding.sparse_penalty(codes)),
        "effective units": _mean(effective_units(codes)),
        "relative sensitivity": _mean(jacobian / codes.var(0).sum()),
    }
    scores = score(test)
    areas = {f"{config.corruption} noise": auc(scores, score(noisy))}
    if outliers is not None:
        areas[outliers.name] = auc(scores, score(np.asarray(outliers.test[:MOST])))
    if vae is not None:
        means, log_std = _vae_codes(vae, test)
        errors["VAE, from the posterior mean"] = squared_error(vae.decode(means))
        code["KL of the VAE, nats"] = _mean(divergences.kl_standard_normal(means, log_std))
    return {"squared_error": {k: _mean(v) for k, v in errors.items()}, "code": code, "auc": areas}


def _pairs(path, x, below, title, middle=None):
    """Rows of twenty: images, (corrupted images,) and what became of them."""
    rows = [x, below] if middle is None else [x, middle, below]
    pictures.grid(path, np.concatenate(rows), len(x), title)


def _comparison(path, columns, labels):
    """Autoencoder and VAE side by side: latent space, samples, reconstructions; columns {title: (codes, samples, pairs)}."""
    figure = pictures.new_figure(figsize=(9, 9.4), layout="constrained")
    axes = figure.subplots(3, len(columns), height_ratios=(5, 3, 1.1))
    for (title, (codes, samples, pairs)), (space, drawn, rebuilt) in zip(
        columns.items(), axes.T, strict=True
    ):
        first, second = sorted(np.argsort(-codes.var(0))[:2]) if codes.shape[1] > 1 else (0, 0)
        dots = space.scatter(codes[:, first], codes[:, second], c=labels, cmap="tab10", s=4)
        space.set(title=title, xlabel=f"$z_{{{first + 1}}}$", ylabel=f"$z_{{{second + 1}}}$")
        for axis, images, text in (
            (drawn, samples, "decoded samples of the law of the codes"),
            (rebuilt, pairs, "test images and reconstructions"),
        ):
            tiles = np.clip(pictures.image_grid(images, 10), 0, 1)
            axis.imshow(tiles.squeeze(-1) if tiles.shape[-1] == 1 else tiles, cmap="gray", vmin=0, vmax=1)
            axis.set_title(text, fontsize=9)
            axis.set_axis_off()
    if labels is not None:
        figure.colorbar(dots, ax=axes[0, -1], label="label", ticks=np.unique(labels))
    figure.savefig(path, dpi=72)


def _compare(path, config, data, fitted, vae, x, labels):
    """Write the picture of the lectures: codes of test images, samples, reconstructions, of autoencoder and VAE."""
    law = np.asarray(fitted.encode(_train_images(data)), np.float64)
    rng = np.random.default_rng(config.seeds[0])
    normal = rng.multivariate_normal(law.mean(0), np.atleast_2d(np.cov(law.T)), 60).astype(np.float32)
    prior = vae.model.parts.prior
    z, _ = prior.sample(vae.params["prior"], jax.random.key(config.seeds[0]), shape=(60,))
    columns = {}
    for title, trained, drawn in (
        ("autoencoder", fitted, normal),
        (f"VAE, Gaussian likelihood of s = {config.vae_std:g}", vae, z),
    ):
        codes = trained.encode(x)
        pairs = np.concatenate([x[:10], trained.decode(codes[:10])])
        columns[title] = np.asarray(codes[:1000]), trained.decode(drawn), pairs
    _comparison(path, columns, None if labels is None else labels[:1000])


def _pictures(
    config: "Config", data: Data, fitted: Fitted, vae: Fitted | None, folder: RunFolder
) -> list[str]:
    """Write the pictures: their names."""
    root = folder.root
    made = _pictures_of_images(root, config, data, fitted) if data.test.ndim == 4 else []
    x = np.asarray(data.test[:2000])
    labels = None if data.test_labels is None else data.test_labels[: len(x)]
    pictures.latent_scatter(root / "latent.png", fitted.encode(x), labels, "codes of test examples")
    if vae is not None and data.test.ndim == 4:
        _compare(root / "compare.png", config, data, fitted, vae, x, labels)
        made.insert(0, "compare")
    history = folder.metrics()
    steps = [line["step"] for line in history]
    fields = {"training": "squared_error", "validation": "valid_squared_error"}
    series = {
        name: (steps, [np.mean(line[field]) for line in history])
        for name, field in fields.items()
        if field in history[-1]
    }
    pictures.curves(root / "curves.png", series, "squared error of an example")
    return [*made, "latent", "curves"]


def _pictures_of_images(root: Path, config: "Config", data: Data, fitted: Fitted) -> list[str]:
    """Reconstructions, straight lines between codes, outliers, and what denoising does: their names."""
    model, params, x = fitted.model.parts, fitted.params, np.asarray(data.test[:2000])
    rebuilt = fitted.reconstruct
    _pairs(
        root / "reconstructions.png", x[:20], rebuilt(x[:20]), "test images, and below them reconstructions"
    )
    ends = min(8, len(x) // 2)
    path = autoencoder.interpolate(model, params, x[:ends], x[ends : 2 * ends], 12)
    rows = [np.concatenate([x[i : i + 1], path[:, i], x[ends + i : ends + i + 1]]) for i in range(ends)]
    pictures.grid(
        root / "interpolation.png",
        np.concatenate(rows),
        14,
        "straight lines between the codes of two test images, which stand left and right",
    )
    ranked = np.argsort(-np.asarray(autoencoder.outlier_score(model, params, x)))
    halves = [np.concatenate([half, rebuilt(half)]) for half in (x[ranked[:20]], x[ranked[:-21:-1]])]
    pictures.grid(
        root / "outliers.png",
        np.concatenate(halves),
        20,
        "test images and reconstructions: most outlying above, least outlying below",
    )
    if fitted.recipe.kind != "denoising":
        return ["reconstructions", "interpolation", "outliers"]
    noisy = fitted.recipe.corrupt(jax.random.key(config.seeds[0]), x[:20])
    _pairs(root / "denoised.png", x[:20], rebuilt(noisy), "test images, corrupted, and denoised", noisy)
    return ["reconstructions", "denoised", "interpolation", "outliers"]


def _table(title, unit, values, digits=2):
    rows = "\n".join(
        f"| {name} | {mean:.{digits}f} ± {se:.{digits}f} |" for name, (mean, se) in values.items()
    )
    return f"| {title} | {unit} |\n|---|---|\n{rows}\n"


def _report(config, data, seconds, result, shown):
    """The report as Markdown."""
    kind = {
        "plain": "plain",
        "sparse": f"sparse (weight {config.weight:g})",
        "denoising": f"denoising ({config.corruption} noise {config.noise:g})",
        "contractive": f"contractive (weight {config.weight:g})",
    }[config.kind]
    classified = ""
    if result["accuracy"]:
        classified = f"""
The decoder thrown away, a classifier with one hidden layer of 100 units on the codes, trained on {config.label_limit} labelled
examples; the checkpoint is the one of least validation loss; ± is the binomial standard error.

{_table("encoder", "test accuracy", result["accuracy"], 4)}"""
    images = "\n".join(f"![{name}]({name}.png)" for name in shown)
    return f"""# Autoencoder on {data.name}

A {kind} autoencoder with codes of {config.latent_dim} numbers, trained on {len(data.train)} examples.
{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
Checkpoint of step {result["step"]}, {seconds:.0f} s of training; ± is the standard error over test examples.
Squared errors are summed over the elements of an example; the noisy input has {config.corruption} noise {config.noise:g}.

{_table("reconstruction", "squared error of a test image", result["squared_error"])}
Whatever the scale of the codes: effective units are (sum |z|)² / sum z² of a code, between 1 and {config.latent_dim}; relative
sensitivity is the squared norm of the encoder's Jacobian over the variance of the codes.

{_table("code", "test examples", result["code"])}{classified}
Outlier score: the squared error. The area under the ROC curve is the chance that an outlier scores above a test image (0.5:
blind, below 0.5: outliers are reconstructed better than the data); ± is DeLong's standard error.

{_table("outliers", "area", result["auc"], 4)}
{images}

Settings: `config.json`; versions and devices: `manifest.json`; curves: `metrics.jsonl` of each part's folder; figures above:
`result.json`.
"""
