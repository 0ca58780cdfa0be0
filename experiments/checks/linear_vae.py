"""The linear VAE reaches the maximum likelihood of pPCA (Lucas et al. 2019); a row that trains a model of its own."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import data, nets
from dlvm_jax.functional.linear_gaussian import LinearGaussian, log_evidence
from dlvm_jax.models import density, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.train import TrainConfig, engine, loop, parallel, validation
from dlvm_jax.train.checkpoint import Checkpoints
from dlvm_jax.train.cost import training_cost
from dlvm_jax.train.run import RunFolder, updated_manifest
from experiments.reproduce.readers import details_of
from experiments.reproduce.registry import Measured, Row

LATENT = 5


def linear_vae(folder: Path, quick: bool) -> Measured:
    """Train a VAE without hidden layers; the exact density of test images under its decoder, which is a pPCA model."""
    dataset = data.load("freyfaces", "scaled")
    grey = dataset.preprocess(jax.random.key(0), dataset.train)
    train, test = (np.asarray(x, np.float32).reshape(len(x), -1) for x in (grey, dataset.test))
    encoder = density.from_linen(nets.MLP((), (LATENT, 2)), (1, train.shape[1]))
    decoder = density.with_shared_scale(density.from_linen(nets.MLP((), (train.shape[1], 1)), (1, LATENT)))
    model = vae(
        density.standard_normal(LATENT),
        density.conditional(encoder, density.normal(), (LATENT,)),
        density.conditional(decoder, density.normal(), train.shape[1:]),
    )
    steps = 200 if quick else 30_000
    about = {"latent_dim": LATENT, "steps": steps, "protocol_hash": dataset.protocol.hash}
    params = _trained(RunFolder(folder), model, train, steps, about)
    corners = jnp.eye(LATENT + 1)[
        :, :LATENT
    ]  # unit vectors give the decoder's columns plus its mean, 0 its mean
    out = decoder.apply(params["decoder"], corners)[..., 0]
    learned = LinearGaussian((out[:-1] - out[-1]).T, out[-1], params["decoder"]["shared"][0])
    nats = np.asarray(log_evidence(learned, test), np.float64)
    error = float(nats.std(ddof=1) / len(nats) ** 0.5)
    details = {"seeds": [0], "protocol": "scaled", **about, **details_of(folder)}
    return Measured(float(nats.mean()), error, details)


def _trained(folder: RunFolder, model: density.Density, train: np.ndarray, steps: int, about: dict) -> dict:
    """The best parameters on the training set, whose optimum is known; a run that was cut short goes on."""
    objective = objectives.negative_elbo(model)
    config = TrainConfig(steps=steps, learning_rate=3e-3, schedule="cosine", eval_every=200)
    config = config.resolved(len(train))
    devices = parallel.devices_for(config.batch_size)
    trainer = engine.build(objective, model.init, config.optimizer(), devices=devices)
    kept = Checkpoints(folder.root / "checkpoints", about)
    state = trainer.init()
    if kept.steps():
        _, state = kept.restore(state)
    folder.write("config.json", about)
    folder.write("manifest.json", updated_manifest(folder.root))
    folder.write("cost.json", training_cost(trainer, config, state, train))
    validate = validation.validator(objective, train)
    state = loop.run(trainer, config, train, state, folder=folder, checkpoints=kept, validate=validate)
    _, best = kept.restore(state, kept.best_step())
    kept.close()
    return trainer.eval_params(best)


ROWS = [
    Row(
        name="linear-vae-freyfaces",
        source="Lucas, Tucker, Grosse, Norouzi 2019, theorem 1",
        what=f"log p(x), nats, linear VAE of {LATENT} dimensions, Frey Faces",
        published="653.88",
        confirmed="the closed form of pPCA, which the theorem says is the optimum",
        better="same",
        tolerance=1.0,
        recipe="Grey levels / 255; no hidden layers, one learned noise scale, 30,000 steps of Adam; one seed.",
        evaluation="Exact density of the test images under the decoder; the exact value is of the same images, so that ± over "
        "images is not between the two.",
        run=linear_vae,
        minutes=2,
    )
]
