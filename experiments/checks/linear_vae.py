"""The linear VAE reaches the maximum likelihood of pPCA (Lucas et al. 2019); a row that trains a model of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import data, nets
from dlvm_jax.functional.linear_gaussian import LinearGaussian, log_evidence
from dlvm_jax.models import density, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.train import engine, loop, optimisers, parallel, validation
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.reproduce import readers as recipes
from experiments.reproduce.registry import Measured, Row

LATENT = 5


def linear_vae(folder, quick):
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
    plan = loop.TrainConfig(200 if quick else 30_000, 100, 200)
    objective = objectives.negative_elbo(model)
    optimiser = optimisers.make("adam", 3e-3, plan.steps, schedule="cosine")
    devices = parallel.devices_for(plan.batch_size)
    trainer = engine.build(objective, model.init, optimiser, devices=devices)
    told = {"latent_dim": LATENT, "steps": plan.steps, "protocol_hash": dataset.protocol.hash}
    options = {"settings": told, "identity": told, "resume": (folder / "checkpoints").is_dir()}
    valid = validation.validator(objective, train)  # the optimum is one of the training set
    params, _ = common.train(RunFolder(folder), trainer, plan, train, valid, **options)
    corners = jnp.eye(LATENT + 1)[
        :, :LATENT
    ]  # the unit vectors, then 0: the decoder's columns plus its mean, then its mean
    out = decoder.apply(params["decoder"], corners)[..., 0]
    learned = LinearGaussian((out[:-1] - out[-1]).T, out[-1], params["decoder"]["shared"][0])
    nats = np.asarray(log_evidence(learned, test), np.float64)
    error = float(nats.std(ddof=1) / len(nats) ** 0.5)
    return Measured(
        float(nats.mean()), error, {"seeds": [0], "protocol": "scaled", **told, **recipes.details_of(folder)}
    )


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
