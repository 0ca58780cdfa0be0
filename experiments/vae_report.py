"""Pictures and report of a trained VAE."""

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.evaluate import likelihood, pictures
from dlvm_jax.models.vae import vae

__all__ = ["write"]


def _shown(dataset, images):
    """Images on the scale [0, 1]."""
    top = dataset.levels - 1 if dataset.discrete else 1.0
    return np.asarray(images, np.float32) / top


def _manifold(parts, params, means, size):
    """Decoded grid of the two most variable latent units through the inverse Gaussian CDF, the others at zero."""
    units = np.argsort(-means.var(0))[:2]
    z = np.zeros((size * size, means.shape[1]), np.float32)
    square = pictures.unit_square(size)
    for column, unit in enumerate(units):
        z[:, unit] = square[:, column]
    return parts[2].mean(params["decoder"], jnp.asarray(z))


def write(root, config, dataset, parts, params, records, folder, step):
    """Write samples, reconstructions, latent space, manifold and learning curves, and report.md."""
    _, posterior, decoder = parts
    model = vae(*parts)
    key_sample, key_reconstruct, key_prior = jax.random.split(jax.random.key(config.seeds[0]), 3)
    x = np.asarray(dataset.test[: min(2000, len(dataset.test))], np.float32)
    labels = None if dataset.test_labels is None else dataset.test_labels[: len(x)]

    z, _ = parts[0].sample(params["prior"], key_prior, shape=(100,))
    pictures.grid(
        root / "samples.png",
        _shown(dataset, decoder.mean(params["decoder"], z)),
        10,
        "means of p(x|z), z ~ p(z)",
    )
    drawn, _ = model.sample(params, key_sample, shape=(100,))
    pictures.grid(root / "samples_drawn.png", _shown(dataset, drawn), 10, "draws from p(x)")
    z, _ = posterior.sample(params["posterior"], key_reconstruct, x[:20])
    pairs = np.concatenate([x[:20], decoder.mean(params["decoder"], z)])
    pictures.grid(
        root / "reconstructions.png",
        _shown(dataset, pairs),
        20,
        "test images, and below them p(x|z), z ~ q(z|x)",
    )
    means = likelihood.posterior_means(posterior, params["posterior"], x)
    pictures.latent_scatter(root / "latent.png", means, labels, "posterior means of test images")
    pictures.grid(
        root / "manifold.png",
        _shown(dataset, _manifold(parts, params, means, 20)),
        20,
        "p(x|z) on the inverse-CDF grid of two latent units",
    )
    history = folder.metrics()
    steps = [line["step"] for line in history]
    series = {
        "training": (steps, np.array([line["bound"] for line in history]).reshape(len(steps), -1).mean(1))
    }
    if "valid_bound" in history[-1]:
        values = np.array([line["valid_bound"] for line in history]).reshape(len(steps), -1).mean(1)
        series["validation"] = (steps, values)
    pictures.curves(root / "curves.png", series, "bound on log p(x), nats")
    (root / "report.md").write_text(_report(config, dataset, records, folder, step))


def _report(config, dataset, records, folder, step):
    rows = "\n".join(
        f"| {seed} | {r.log_likelihood:.2f} ± {r.standard_error:.2f} | {r.bits_per_dim:.4f} | {r.elbo:.2f} "
        f"| {r.reconstruction:.2f} | {r.kl:.2f} | {r.active_units} of {config.latent_dim} | {r.effective_samples:.1f} |"
        for seed, r in zip(config.seeds, records, strict=True)
    )
    first = records[0]
    between = ""
    if len(records) > 1:
        values = [r.log_likelihood for r in records]
        between = (
            f"\nOver seeds: {np.mean(values):.2f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2f} "
            "(standard error of the mean over seeds).\n"
        )
    return f"""# VAE on {config.data}

{dataset.protocol.description} (protocol `{dataset.protocol.name}`, hash `{dataset.protocol.hash}`).
Evaluated: {first.examples} test examples, estimator `{first.estimator}` with K = {first.samples}, checkpoint of step {step},
{folder.seconds():.0f} s of training. Likelihoods in nats; ± is the standard error over examples.

| seed | log p(x) | bits/dim | ELBO | reconstruction | KL | active units | effective samples |
|---|---|---|---|---|---|---|---|
{rows}
{between}
![samples](samples.png)
![reconstructions](reconstructions.png)
![latent space](latent.png)
![manifold](manifold.png)
![learning curves](curves.png)

Draws with the likelihood's own noise: [samples_drawn.png](samples_drawn.png). Settings: `config.json`; versions and devices:
`manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
