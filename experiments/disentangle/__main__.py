"""Disentanglement of VAEs on drawn shapes whose factors are known: ELBO, beta-VAE and beta-TCVAE side by side.

python -m experiments.disentangle                    # three objectives, two seeds each, a few minutes
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tyro

from dlvm_jax import nets
from dlvm_jax.data import factors
from dlvm_jax.data.protocol import TRANSFORMS
from dlvm_jax.evaluate import disentanglement, likelihood, pictures
from dlvm_jax.models import density, objectives, regularised
from dlvm_jax.models.vae import vae
from dlvm_jax.train import checkpoint, engine, loop, optimisers, parallel
from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common


@dataclasses.dataclass(frozen=True)
class Config:
    """Train VAEs on all 7680 shapes and score how far each latent unit stands for one factor."""

    beta: float = 4.0
    """weight of the KL in the beta-VAE, and of the total correlation in the beta-TCVAE"""
    latent_dim: int = 10
    """dimension of the latent space"""
    hidden: tuple[int, ...] = (400, 400)
    """widths of the encoder's hidden layers; the decoder mirrors them"""
    steps: int = 8000
    """training steps of each model"""
    batch_size: int = 128
    """examples of a step"""
    seeds: tuple[int, ...] = (0, 1)
    """random seeds, trained together"""
    out: Path | None = None
    """folder of runs, pictures and report; default runs/disentangle-001, 002, ..."""
    resume: bool = False
    """go on with the run in --out"""


def check(config):
    """Raise ValueError for impossible settings."""
    for name in ("latent_dim", "batch_size"):
        common.at_least(name, getattr(config, name), 2)
    common.at_least("beta", config.beta, 0)
    common.at_least("steps", config.steps, 1)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"--seeds needs different seeds, as in --seeds 0 1, got {config.seeds}")
    if config.resume and config.out is None:
        raise ValueError("--resume goes on with the run in --out; say which")


def run(config):
    """All models, their scores, pictures and the report."""
    check(config)
    known = factors.all_factors()
    grey = factors.render(known)
    raw = np.round(255 * grey).astype(np.uint8)
    event, latent = raw.shape[1:], config.latent_dim
    encoder = density.from_linen(nets.MLP(config.hidden, (latent, 2), event_ndim=3), (1, *event))
    decoder = density.from_linen(nets.MLP(config.hidden[::-1], (*event, 1)), (1, latent))
    parts = (
        density.standard_normal(latent),
        density.conditional(encoder, density.normal(), (latent,)),
        density.conditional(decoder, density.bernoulli(), event),
    )
    model = vae(*parts, kl="analytic")
    kinds = {
        "VAE": objectives.negative_elbo(model),
        f"beta-VAE, {config.beta:g}": objectives.negative_elbo(model, config.beta),
        f"beta-TCVAE, {config.beta:g}": regularised.total_correlation(
            *parts, beta=config.beta, examples=len(raw)
        ),
    }
    root = config.out or common.new_folder("disentangle")
    folder = RunFolder(root)
    folder.write("config.json", common.settings(config))
    folder.write("manifest.json", manifest())
    identity = {k: v for k, v in common.settings(config).items() if k not in ("out", "resume")}
    rows = {}
    for name, objective in kinds.items():
        print(name)
        binarised = objectives.preprocessed(objective, TRANSFORMS["binarised"].train(256))
        trained = _train(config, root / _slug(name), identity | {"objective": name}, binarised, model, raw)
        rows[name] = [_scores(parts[1], params["posterior"], grey, known) for params in trained]
        _traversal(root / f"{_slug(name)}.png", parts, trained[0], grey, name)
        folder.write("result.json", rows)
        print(f"{name}: {_line(rows[name])}")
    (root / "report.md").write_text(_report(config, rows))
    print(f"report in {root / 'report.md'}")


def _train(config, root, identity, objective, model, raw):
    """The parameters of each seed, trained in a folder of their own or taken up where they stopped."""
    several = len(config.seeds) > 1
    optimiser = optimisers.make("adam", 1e-3, config.steps)
    devices = parallel.devices_for(config.batch_size)
    trainer = engine.build(objective, model.init, optimiser, seeds=len(config.seeds), devices=devices)
    kept = checkpoint.Checkpoints(root / "checkpoints", identity)
    resume = config.resume and bool(kept.steps())
    state = common.restore(kept, trainer.init(config.seeds if several else config.seeds[0]), resume)
    plan = loop.TrainConfig(config.steps, config.batch_size, max(1, config.steps // 20), seeds=config.seeds)
    state = loop.fit(trainer, plan, trainer.put(raw), state, folder=RunFolder(root), checkpoints=kept)
    kept.close()
    if not several:
        return [state.params]
    return [jax.tree.map(lambda x, i=i: x[i], state.params) for i in range(len(config.seeds))]


def _slug(name):
    return name.split(",")[0]


def _scores(posterior, params, grey, known):
    """The metrics of posterior means of every image, by name."""
    scores = disentanglement.evaluate(likelihood.posterior_means(posterior, params, grey), known)
    return {
        "beta-VAE score": scores.beta_vae,
        "FactorVAE score": scores.factor_vae,
        "MIG": scores.mig,
        "SAP": scores.sap,
        "DCI disentanglement": scores.dci[0],
    }


def _traversal(path, parts, params, grey, name):
    """Decoded images while one latent unit runs from -2 to 2, a row a unit, the most used first."""
    means = likelihood.posterior_means(parts[1], params["posterior"], grey)
    z = np.repeat(means[len(means) // 2][None], 9 * means.shape[1], axis=0).reshape(means.shape[1], 9, -1)
    for row, unit in enumerate(np.argsort(-means.var(0))):
        z[row, :, unit] = np.linspace(-2, 2, 9)
    images = parts[2].mean(params["decoder"], z.reshape(-1, means.shape[1]))
    pictures.grid(path, np.asarray(images), 9, f"{name}: one unit a row, from -2 to 2")


def _line(rows):
    return ", ".join(f"{score} {_mean(rows, score)}" for score in rows[0])


def _mean(rows, score):
    values = np.array([row[score] for row in rows])
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def _report(config, rows):
    names = list(next(iter(rows.values()))[0])
    lines = "\n".join(
        f"| {name} | " + " | ".join(_mean(each, score) for score in names) + " |"
        for name, each in rows.items()
    )
    shown = "\n".join(f"![{name}]({_slug(name)}.png)" for name in rows)
    return f"""# Disentanglement on shapes with known factors

All 7680 images ({", ".join(f"{name} {count}" for name, count in factors.LEVELS.items())}), bits drawn anew for each minibatch;
{config.steps} steps of {config.batch_size}, {len(config.seeds)} seed(s); ± is the standard error over seeds.  Scores are of the
posterior means, one is best.

| objective | {" | ".join(names)} |
|---|{"---|" * len(names)}
{lines}

{shown}
"""


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
