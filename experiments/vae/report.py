"""Pictures and report of a trained VAE."""

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.evaluate import likelihood, pictures
from dlvm_jax.models.density import join
from dlvm_jax.models.objectives import unpack
from experiments.vae import nets as vae_nets
from experiments.vae import parts as vae_parts

__all__ = ["write"]


def _manifold(parts, params, means, size):
    """Decoded grid of the two most variable latent units through the inverse Gaussian CDF, the others at zero."""
    units = np.argsort(-means.var(0))[:2]
    z = np.zeros((size * size, means.shape[1]), np.float32)
    square = pictures.unit_square(size)
    for column, unit in enumerate(units):
        z[:, unit] = square[:, column]
    return parts.decoder.mean(params["decoder"], jnp.asarray(z))


def _samples(model, params, key, contexts, rows):
    """Means of p(x|z, c) and draws of p(x|c), each [contexts, rows, *event], or [rows * rows, *event] without a context."""
    key_prior, key_draw = jax.random.split(key)
    shape = (rows,) if contexts is not None else (rows * rows,)
    own = model.parts.tied(params)
    z, _ = model.parts.prior.sample(own["prior"], key_prior, contexts, shape)
    means = model.parts.decoder.mean(own["decoder"], join(z, contexts))
    drawn, _ = model.density.sample(params, key_draw, contexts, shape)
    if contexts is None:
        return means, drawn
    return jnp.swapaxes(means, 0, 1), jnp.swapaxes(drawn, 0, 1)


def _pictures(root, config, dataset, condition, model, params, test, key):
    """Samples, reconstructions, latent space and, for a Gaussian prior in the plane's sense, the manifold."""
    parts = model.parts
    head = lambda count: jax.tree.map(lambda a: jnp.asarray(a[:count], jnp.float32), test)

    def grid(name, x, context, columns, title):
        images = np.asarray(condition.merge(x, context), np.float32) / vae_nets.top(dataset)
        pictures.grid(root / name, images.reshape(-1, *images.shape[-3:]), columns, title)

    key_sample, key_reconstruct = jax.random.split(key)
    _, contexts = unpack(head(10))
    means, drawn = _samples(model, params, key_sample, contexts, 10)
    shared = None if contexts is None else contexts[:, None]
    told = "" if contexts is None else ", a row for each test image's context"
    grid("samples.png", means, shared, 10, f"means of p(x|z), z ~ p(z){told}")
    grid("samples_drawn.png", drawn, shared, 10, f"draws from p(x){told}")
    x, context = unpack(head(20))
    own = parts.tied(params)
    z, _ = parts.posterior.sample(own["posterior"], key_reconstruct, join(x, context))
    again = parts.decoder.mean(own["decoder"], join(z, context))
    both = None if context is None else jnp.concatenate([context, context])
    title = "test images, and below them p(x|z), z ~ q(z|x)"
    grid("reconstructions.png", jnp.concatenate([x, again]), both, 20, title)
    made = ["samples", "reconstructions"]
    if parts.posterior.mean is not None:
        few = head(2000)
        labels = None if dataset.test_labels is None else dataset.test_labels[: len(unpack(few)[0])]
        codes = likelihood.posterior_means(parts.posterior, own["posterior"], few)
        pictures.latent_scatter(root / "latent.png", codes, labels, "posterior means of test images")
        made.append("latent")
        if config.prior == "standard" and context is None and config.layers == 1:
            title = "p(x|z) on the inverse-CDF grid of two latent units"
            grid("manifold.png", _manifold(parts, own, codes, 20), None, 20, title)
            made.append("manifold")
    return made


def _curves(root, history):
    """Learning curves of the bound, or of the loss where none is trained."""
    steps = [line["step"] for line in history]
    name = "bound" if "bound" in history[-1] else "loss"

    def of(field):
        return steps, np.array([line[field] for line in history]).reshape(len(steps), -1).mean(1)

    series = {"training": of(name)}
    if f"valid_{name}" in history[-1]:
        series["validation"] = of(f"valid_{name}")
    pictures.curves(root / "curves.png", series, f"{name}, nats")


def write(root, config, dataset, condition, model, params, test, records, further, folder, step):
    """Write the pictures, learning curves and report.md of the first seed's parameters; `further`: lines by name."""
    key = jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1)
    made = _pictures(root, config, dataset, condition, model, params, test, key)
    _curves(root, folder.metrics())
    (root / "report.md").write_text(
        _report(config, dataset, records, further, folder, step, [*made, "curves"])
    )


def _report(config, dataset, records, further, folder, step, made):
    def row(seed, r):
        units = "-" if r.active_units is None else f"{r.active_units} of {vae_parts.code_dim(config)}"
        effective = "-" if r.effective_samples is None else f"{r.effective_samples:.1f}"
        return (
            f"| {seed} | {r.log_likelihood:.2f} ± {r.standard_error:.2f} | {r.bits_per_dim:.4f} | {r.elbo:.2f} "
            f"| {r.reconstruction:.2f} | {r.kl:.2f} | {units} | {effective} |"
        )

    rows = "\n".join(row(seed, record) for seed, record in zip(config.seeds, records, strict=True))
    first = records[0]
    between = ""
    if len(records) > 1:
        values = [r.log_likelihood for r in records]
        between = (
            f"\nOver seeds: {np.mean(values):.2f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2f} "
            "(standard error of the mean over seeds).\n"
        )
    told = "" if config.condition is None else f", given {config.condition}"
    counted = "On the sphere the units are the coordinates in space.\n" if config.prior == "sphere" else ""
    lines = "".join(f"\n{name.capitalize()}: {line}.\n" for name, line in further.items())
    shown = "\n".join(f"![{name}]({name}.png)" for name in made)
    return f"""# VAE on {config.data}

Prior {config.prior}, posterior {config.posterior}, likelihood {config.likelihood}, objective {config.objective}{told};
{config.layers} layer(s) of {config.latent_dim} latent units.

{dataset.protocol.description} (protocol `{dataset.protocol.name}`, hash `{dataset.protocol.hash}`).
Evaluated: {first.examples} test examples, estimator `{first.estimator}` with K = {first.samples}, checkpoint of step {step},
{folder.seconds():.0f} s of training. Likelihoods in nats; ± is the standard error over examples.
{counted}
| seed | log p(x) | bits/dim | ELBO | reconstruction | KL | active units | effective samples |
|---|---|---|---|---|---|---|---|
{rows}
{between}{lines}
{shown}

Draws with the likelihood's own noise: [samples_drawn.png](samples_drawn.png). Settings: `config.json`; versions and devices:
`manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
