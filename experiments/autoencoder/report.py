"""Measurements, pictures and report of a trained autoencoder."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from dlvm_jax.evaluate import pictures
from dlvm_jax.functional import autoencoding, divergences
from dlvm_jax.models import autoencoder

__all__ = ["auc", "measure", "pca", "write"]

MOST = 10_000  # examples a measurement uses at most, so that it fits in memory at once


def auc(inside, outside):
    """P(a score of `outside` exceeds one of `inside`), ties counting half, and its standard error (DeLong et al. 1988)."""

    def placements(scores, among):
        among = np.sort(among)
        return (np.searchsorted(among, scores, "left") + np.searchsorted(among, scores, "right")) / (
            2 * len(among)
        )

    above, below = placements(outside, inside), placements(inside, outside)
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    return [float(above.mean()), float(np.sqrt(variance))]


def pca(x, dim):
    """Mean [D] and the `dim` leading principal axes [D, dim] of examples [n, D]."""
    mean = x.mean(0)
    _, axes = np.linalg.eigh(np.cov(x.T, bias=True).astype(np.float64))
    return mean, axes[:, ::-1][:, :dim].astype(x.dtype)


def _mean(values):
    """Mean over examples and its standard error."""
    values = np.asarray(values, np.float64)
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def _train_images(config, dataset):
    raw = dataset.train[: config.train_limit][:MOST]
    return np.asarray(dataset.preprocess(jax.random.key(0), raw))


def _vae_codes(parts, params, x):
    """Posterior means and log-standard deviations."""
    return parts.vae[1].normal(params["posterior"], x)


def _effective_units(codes):
    """Participation ratio (sum |z|)^2 / sum z^2 of each code: from 1, one unit at work, to k, all alike; free of scale."""
    codes = np.asarray(codes, np.float64)
    return np.abs(codes).sum(1) ** 2 / np.square(codes).sum(1)


def measure(config, dataset, outliers, corrupt, parts, params, vae_params):
    """What the report's tables hold: each a mean over test examples with its standard error."""
    model, test = parts.model, np.asarray(dataset.test[:MOST])
    train = _train_images(config, dataset)
    score = jax.jit(lambda x: autoencoder.outlier_score(model, params, x))
    noisy = corrupt(jax.random.key(config.seed), test)

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
        "effective units": _mean(_effective_units(codes)),
        "relative sensitivity": _mean(jacobian / codes.var(0).sum()),
    }
    scores = score(test)
    areas = {f"{config.corruption} noise": auc(scores, score(noisy))}
    if outliers is not None:
        areas[outliers.name] = auc(scores, score(np.asarray(outliers.test[:MOST])))
    if vae_params is not None:
        means, log_std = _vae_codes(parts, vae_params, test)
        errors["VAE, from the posterior mean"] = squared_error(
            parts.vae[2].mean(vae_params["decoder"], means)
        )
        code["KL of the VAE, nats"] = _mean(divergences.kl_standard_normal(means, log_std))
    return {"squared_error": {k: _mean(v) for k, v in errors.items()}, "code": code, "auc": areas}


def _pairs(path, x, below, title, middle=None):
    """Rows of twenty: images, (corrupted images,) and what became of them."""
    rows = [x, below] if middle is None else [x, middle, below]
    pictures.grid(path, np.concatenate(rows), len(x), title)


def _comparison(path, columns, labels):
    """Autoencoder and VAE side by side: latent space, samples, reconstructions; columns {title: (codes, samples, pairs)}."""
    figure, axes = plt.subplots(
        3, len(columns), figsize=(9, 9.4), height_ratios=(5, 3, 1.1), layout="constrained"
    )
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
    plt.close(figure)


def _compare(root, config, dataset, parts, params, vae_params, x, labels):
    """Write the picture of the lectures: codes of test images, samples, reconstructions, of autoencoder and VAE."""
    model, (prior, _, decoder) = parts.model, parts.vae
    law = np.asarray(model.encode(params, _train_images(config, dataset)), np.float64)
    rng = np.random.default_rng(config.seed)
    fitted = rng.multivariate_normal(law.mean(0), np.atleast_2d(np.cov(law.T)), 60).astype(np.float32)
    z, _ = prior.sample(vae_params["prior"], jax.random.key(config.seed), shape=(60,))
    columns = {}
    for title, codes, drawn, decode in (
        ("autoencoder", model.encode(params, x), fitted, lambda z: model.decode(params, z)),
        (
            f"VAE, Gaussian likelihood of s = {config.vae_std:g}",
            _vae_codes(parts, vae_params, x)[0],
            z,
            lambda z: decoder.mean(vae_params["decoder"], z),
        ),
    ):
        pairs = np.concatenate([x[:10], decode(codes[:10])])
        columns[title] = np.asarray(codes[:1000]), decode(jnp.asarray(drawn)), pairs
    _comparison(root / "compare.png", columns, None if labels is None else labels[:1000])


def write(root, config, dataset, corrupt, parts, params, vae_params, log, result):
    """Write the pictures and report.md."""
    model = parts.model
    x = np.asarray(dataset.test[:2000])
    labels = None if dataset.test_labels is None else dataset.test_labels[: len(x)]

    def rebuilt(images):
        return model.decode(params, model.encode(params, images))

    _pairs(
        root / "reconstructions.png", x[:20], rebuilt(x[:20]), "test images, and below them reconstructions"
    )
    pictures.latent_scatter(root / "latent.png", model.encode(params, x), labels, "codes of test images")
    path = autoencoder.interpolate(model, params, x[:8], x[8:16], 12)
    pictures.grid(
        root / "interpolation.png",
        np.concatenate([np.concatenate([x[i : i + 1], path[:, i], x[8 + i : 9 + i]]) for i in range(8)]),
        14,
        "straight lines between the codes of two test images, which stand left and right",
    )
    ranked = np.argsort(-np.asarray(autoencoder.outlier_score(model, params, x)))
    chosen = x[np.concatenate([ranked[:20], ranked[:-21:-1]])]
    halves = [np.concatenate([half, rebuilt(half)]) for half in (chosen[:20], chosen[20:])]
    pictures.grid(
        root / "outliers.png",
        np.concatenate(halves),
        20,
        "test images and reconstructions: most outlying above, least outlying below",
    )
    shown = ["reconstructions", "latent", "interpolation", "outliers", "curves"]
    if config.kind == "denoising":
        noisy = corrupt(jax.random.key(config.seed), x[:20])
        _pairs(root / "denoised.png", x[:20], rebuilt(noisy), "test images, corrupted, and denoised", noisy)
        shown.insert(1, "denoised")
    if vae_params is not None:
        _compare(root, config, dataset, parts, params, vae_params, x, labels)
        shown.insert(0, "compare")
    history = log.metrics()
    steps = [line["step"] for line in history]
    series = {"training": (steps, [line["squared_error"] for line in history])}
    if "valid_squared_error" in history[-1]:
        series["validation"] = (steps, [line["valid_squared_error"] for line in history])
    pictures.curves(root / "curves.png", series, "squared error of an example")
    (root / "report.md").write_text(_report(config, dataset, log, result, shown))


def _table(title, unit, values, digits=2):
    rows = "\n".join(
        f"| {name} | {mean:.{digits}f} ± {se:.{digits}f} |" for name, (mean, se) in values.items()
    )
    return f"| {title} | {unit} |\n|---|---|\n{rows}\n"


def _report(config, dataset, log, result, shown):
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
    return f"""# Autoencoder on {config.data}

A {kind} autoencoder with codes of {config.latent_dim} numbers, trained on {len(dataset.train[: config.train_limit])} examples.
{dataset.protocol.description} (protocol `{dataset.protocol.name}`, hash `{dataset.protocol.hash}`).
Checkpoint of step {result["step"]}, {log.seconds():.0f} s of training; ± is the standard error over test examples.
Squared errors are summed over the pixels of an image; the noisy input has {config.corruption} noise {config.noise:g}.

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
