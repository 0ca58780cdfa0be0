"""Latent diffusion: a diffusion model as the prior of a trained VAE, whose encoder and decoder stay as they are.

python -m experiments.diffusion.prior                       # of a VAE of the embedded digits, which it trains first
python -m experiments.diffusion.prior --vae runs/vae-mnist-001

Prior and posterior trained together are `python -m experiments.vae --prior diffusion`.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dlvm_jax.evaluate import pictures
from dlvm_jax.models import diffusion, latent_diffusion, objectives
from dlvm_jax.models.vae import vae as vae_of
from dlvm_jax.train import checkpoint, engine, loop, optimisers, parallel, validation
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.vae import __main__ as vae
from experiments.vae import nets as vae_nets
from experiments.vae import parts as vae_parts
from experiments.vae import setup as vae_setup


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a diffusion prior for a VAE, and compare bound and evidence before and after."""

    vae: Path | None = None
    """folder of a finished run of experiments.vae; default: train one on the embedded digits"""
    width: int = 128
    """width of the two layers of the denoiser"""
    steps: int = 5000
    """training steps of the prior"""
    batch_size: int = 200
    """examples of a step"""
    learning_rate: float = 1e-3
    """peak learning rate of Adam, which falls along a cosine"""
    eval_samples: int = 50
    """importance samples of each test example; each is a solution of an ODE"""
    eval_limit: int | None = 1000
    """evaluate on the first so many test examples"""
    seed: int = 0
    """random seed"""
    out: Path | None = None
    """run folder; default runs/diffusion-prior-001, 002, ..."""
    resume: bool = False
    """go on with the run in --out"""


def check(config):
    """Raise ValueError for impossible settings."""
    for name in ("width", "steps", "batch_size", "eval_samples", "eval_limit"):
        common.at_least(name, getattr(config, name), 1)
    if config.resume and config.out is None:
        raise ValueError("--resume goes on with the run in --out; say which")


def check_vae(settings):
    """Raise ValueError for a VAE whose latent space a diffusion cannot take over."""
    if settings.layers > 1 or settings.condition or settings.prior not in vae_parts.EUCLIDEAN:
        raise ValueError(
            "a diffusion prior takes over one layer on R^M without a condition, got a VAE with "
            f"--layers {settings.layers}, --prior {settings.prior} and --condition {settings.condition}"
        )


def run(config):
    """Train the prior, evaluate, write pictures and report."""
    check(config)
    root = config.out or common.new_folder("diffusion-prior")
    source = config.vae or root / "vae"
    if config.vae is None and not (source / "result.json").exists():
        vae.run(vae_setup.Config(out=source, resume=(source / "checkpoints").is_dir()))
    settings, dataset, model, params = vae_setup.load(source)
    check_vae(settings)
    own = model.parts.tied(params)
    posterior, held = model.parts.posterior, own["posterior"]
    mean, std = latent_moments(posterior, held, dataset, jax.random.key(config.seed))

    denoiser = vae_parts.latent_denoiser(settings.latent_dim, config.width)
    scaled = lambda density: latent_diffusion.standardised(density, mean, std)
    bound = scaled(diffusion.bound_density(denoiser, vae_parts.latent_sampler))
    exact = scaled(diffusion.ode_density(denoiser, vae_parts.latent_sampler, vae_parts.ODE_STEPS))
    objective = latent_diffusion.encoded(objectives.negative_elbo(bound), posterior, held)
    optimiser = optimisers.make("adam", config.learning_rate, config.steps, schedule="cosine", clip=1.0)
    trainer = engine.build(
        objectives.preprocessed(objective, dataset.preprocess),
        bound.init,
        optimiser,
        ema=0.999,
        devices=parallel.devices_for(config.batch_size),
    )
    told = ("out", "resume", "vae", "eval_samples", "eval_limit")
    identity = {name: value for name, value in common.settings(config).items() if name not in told}
    identity["vae"] = checkpoint.digest(params)
    folder = RunFolder(root)
    plan = loop.TrainConfig(config.steps, config.batch_size, max(1, config.steps // 20), seeds=(config.seed,))
    validate = (
        validation.validator(objective, np.asarray(dataset.valid, np.float32)) if len(dataset.valid) else None
    )
    learned, step = common.train(
        folder,
        trainer,
        plan,
        dataset.train,
        validate,
        settings=common.settings(config),
        identity=identity,
        resume=config.resume,
    )

    rows = {  # name: (prior of the bound, prior of the evidence, parameters)
        f"its own, {settings.prior}": (model.parts.prior, model.parts.prior, own),
        "diffusion": (bound, exact, {**own, "prior": learned}),
    }
    test = np.asarray(dataset.test[: config.eval_limit], np.float32)
    records, nats, drawn = {}, [], {}
    estimators = {"bound": "bound", "evidence": None}
    for name, (*priors, theirs) in rows.items():
        densities = [vae_of(prior, posterior, model.parts.decoder) for prior in priors]
        pair = [
            common.evaluate_with_progress(
                density,
                theirs,
                test,
                dataset,
                config.seed,
                config.eval_samples,
                root / "evaluation" / f"{len(records)} {what}",
                estimator=estimator,
            )
            for density, (what, estimator) in zip(densities, estimators.items(), strict=True)
        ]
        records[name] = dict(zip(estimators, (record.as_dict() for record in pair), strict=True))
        nats.append([record.per_example for record in pair])
        z, _ = priors[0].sample(theirs["prior"], jax.random.key(config.seed), shape=(100,))
        drawn[name] = np.asarray(model.parts.decoder.mean(own["decoder"], z)) / vae_nets.top(dataset)
    differences = [common.paired(after - before) for before, after in zip(*nats, strict=True)]
    folder.write("result.json", {"records": records, "differences": differences, "step": step})
    history = folder.metrics()
    curves = {"training": [line["bound"] for line in history]}
    if validate is not None:
        curves["validation"] = [line["valid_bound"] for line in history]
    steps = [line["step"] for line in history]
    pictures.curves(
        root / "curves.png", {k: (steps, v) for k, v in curves.items()}, "bound on E log p(z), nats"
    )
    for (name, images), file in zip(drawn.items(), ("samples_before", "samples_after"), strict=True):
        pictures.grid(root / f"{file}.png", images, 10, f"means of p(x|z), z of the prior: {name}")
    report = _report(settings, dataset, records, differences, folder, step)
    (root / "report.md").write_text(report)
    print(f"{report}\nreport in {root / 'report.md'}")


def latent_moments(posterior, params, dataset, key):
    """Mean and standard deviation of each coordinate of z ~ q(z | x) over the training set."""

    @jax.jit
    def encode(key, raw):
        key_data, key_z = jax.random.split(key)
        return posterior.sample(params, key_z, dataset.preprocess(key_data, raw))[0]

    blocks = range(0, len(dataset.train), 1000)
    z = np.concatenate(
        [encode(jax.random.fold_in(key, i), jnp.asarray(dataset.train[i : i + 1000])) for i in blocks]
    )
    return jnp.asarray(z.mean(0)), jnp.asarray(z.std(0))


def _report(settings, dataset, records, differences, folder, step):
    """The comparison as Markdown."""
    first = next(iter(records.values()))["evidence"]

    def cell(record):
        return f"{record['log_likelihood']:.2f} ± {record['standard_error']:.2f}"

    lines = "\n".join(
        f"| {name} | {cell(row['bound'])} | {cell(row['evidence'])} |" for name, row in records.items()
    )
    change = " | ".join(f"{mean:+.2f} ± {error:.2f}" for mean, error in differences)
    return f"""# Diffusion prior of a VAE on {settings.data}

Encoder and decoder of a VAE with prior {settings.prior} and {settings.latent_dim} latent units, frozen; the diffusion of its
standardised latent vectors trained for {folder.seconds():.0f} s, checkpoint of step {step}.
Protocol `{dataset.protocol.name}` {dataset.protocol.hash}, {first["examples"]} test examples, K = {first["samples"]}; nats; ± is
the standard error over examples, of the paired difference in the last row.

| prior | bound (ELBO) | evidence (importance weighting) |
|---|---|---|
{lines}
| difference | {change} |

The bound has the diffusion's own variational bound for log p(z), the evidence its density by the probability-flow ODE.

![before](samples_before.png)
![after](samples_after.png)
![curves](curves.png)
"""


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
