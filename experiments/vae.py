"""Train a variational autoencoder, evaluate it on held-out data, and write a report with pictures.

python -m experiments.vae                                   # embedded digits, under a minute
python -m experiments.vae --data mnist --latent-dim 20 --epochs 50
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from dlvm_jax import data as datasets
from dlvm_jax import nets
from dlvm_jax.evaluate import evaluate
from dlvm_jax.models import density, objectives
from dlvm_jax.models.vae import dreg, vae
from dlvm_jax.train import checkpoint, engine, loop, optimisers, order, parallel, validation
from dlvm_jax.train.run import RunFolder, manifest
from experiments import common, vae_report

LIKELIHOODS = {
    "bernoulli": lambda levels: density.bernoulli(),
    "normal": lambda levels: density.normal(),
    "unit-normal": lambda levels: density.fixed_normal(1.0),
    "discretised-logistic": density.discretised_logistic,
    "discretised-normal": density.discretised_normal,
    "categorical": density.categorical,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a variational autoencoder, evaluate it on the test set, and write a report with pictures."""

    data: str = "digits"
    """data set: digits (embedded), mnist, fashion_mnist, binarized_mnist, omniglot, freyfaces, cifar10"""
    protocol: str | None = None
    """split and transformation by name (an unknown name lists them); default: the set's usual one for the likelihood"""
    latent_dim: int = 8
    """dimension of the latent space"""
    likelihood: Literal[
        "bernoulli", "normal", "unit-normal", "discretised-logistic", "discretised-normal", "categorical"
    ] = "bernoulli"
    """p(x|z): bernoulli for bits, the discretised and categorical ones for grey levels, the normal ones for dequantised data"""
    net: Literal["mlp", "gated", "conv"] = "mlp"
    """encoder and decoder: dense layers, gated dense layers, or a small convolutional pair"""
    hidden: tuple[int, ...] = (300,)
    """widths of the hidden layers (channels for conv), from the data inwards"""
    objective: Literal["elbo", "iwae", "dreg", "renyi"] = "elbo"
    """training objective"""
    kl: Literal["analytic", "sampled"] = "analytic"
    """how the KL of the ELBO is computed in training (evaluation always samples)"""
    beta: float = 1.0
    """weight of the KL in the ELBO"""
    samples: int = 1
    """latent samples of each example for iwae, dreg and renyi"""
    alpha: float = 0.5
    """order of the renyi bound (0: iwae, 1: ELBO)"""
    steps: int | None = None
    """training steps; default 5000 unless --epochs is given"""
    epochs: int | None = None
    """passes over the training set, instead of --steps"""
    batch_size: int = 100
    """examples of a step"""
    optimiser: Literal["adam", "adamax", "adamw", "rmsprop", "sgd"] = "adam"
    """Optax optimiser"""
    learning_rate: float = 1e-3
    """peak learning rate"""
    schedule: Literal["constant", "cosine"] = "constant"
    """learning-rate schedule over all steps"""
    warm_up: int = 0
    """steps of linear warm-up of the learning rate"""
    clip: float | None = None
    """clip the gradient's global norm"""
    ema: float | None = None
    """decay of a moving average of the parameters, which is then evaluated"""
    accumulate: int = 1
    """micro-batches a step is split into, to save memory"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """compute type of the networks; parameters and likelihoods stay float32"""
    every: int | None = None
    """steps between validations, log lines and checkpoints; default a fortieth of the run"""
    patience: int | None = None
    """stop after so many validations without improvement"""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)
    """random seeds; several are trained together"""
    eval_samples: int = 500
    """importance samples of each test example"""
    eval_limit: int | None = None
    """evaluate on the first so many test examples only"""
    out: Path | None = None
    """run folder; default runs/vae-DATA-001, 002, ..."""
    resume: bool = False
    """go on with the run in --out"""
    tensorboard: bool = False
    """also write TensorBoard files (needs the extra "tensorboard")"""
    coordinator: str | None = None
    """several hosts: address:port of process 0"""
    processes: int | None = None
    """several hosts: how many processes"""
    process: int | None = None
    """several hosts: number of this process"""


_NOT_PART_OF_THE_RUN = (
    "out",
    "resume",
    "tensorboard",
    "coordinator",
    "processes",
    "process",
    "eval_samples",
    "eval_limit",
)


def _protocol(config):
    """The protocol for the likelihood, unless one is named."""
    if config.protocol is not None:
        return config.protocol
    kind = {"bernoulli": None, "normal": "dequantised", "unit-normal": "dequantised"}.get(
        config.likelihood, "levels"
    )
    return kind


def check(config, dataset):
    """Raise ValueError for a likelihood that does not fit the data, or settings that contradict each other."""
    if config.likelihood == "bernoulli" and not (dataset.discrete and dataset.levels == 2):
        raise ValueError(
            f"a bernoulli likelihood needs bits, the protocol {dataset.protocol.name!r} has {dataset.levels} levels; "
            "use --likelihood discretised-logistic or a binarising --protocol"
        )
    continuous = config.likelihood in ("normal", "unit-normal")
    if continuous == dataset.discrete:
        raise ValueError(
            f"a {config.likelihood} likelihood needs {'real' if continuous else 'integer'} data, the protocol "
            f"{dataset.protocol.name!r} is {'discrete' if dataset.discrete else 'real'}; "
            f"use --protocol {'dequantised' if continuous else 'levels'}"
        )
    if config.steps is not None and config.epochs is not None:
        raise ValueError("give --steps or --epochs, not both")
    if config.samples > 1 and config.objective == "elbo":
        raise ValueError("--samples belongs to --objective iwae, dreg or renyi; the ELBO uses one")
    if config.beta != 1 and config.objective != "elbo":
        raise ValueError("--beta belongs to --objective elbo")
    if config.patience is not None and not len(dataset.valid):
        raise ValueError(
            f"--patience needs a validation set, and the protocol {dataset.protocol.name!r} has none"
        )
    if not config.seeds:
        raise ValueError("give at least one seed, as in --seeds 0")


def build_parts(config, dataset):
    """Prior, posterior and decoder of the VAE of a configuration: three `Density`s."""
    shape, latent = dataset.train.shape[1:], config.latent_dim
    prior = density.standard_normal(latent)
    dtype = jnp.dtype(config.dtype)
    family = LIKELIHOODS[config.likelihood](dataset.levels)
    inward, outward = (latent, 2), (*shape, family.width)
    backwards = config.hidden[::-1]
    if config.net == "conv":
        encoder = nets.ConvEncoder(config.hidden, inward, dtype)
        decoder = nets.ConvDecoder(backwards, outward, dtype)
    else:
        gated = config.net == "gated"
        encoder = nets.MLP(config.hidden, inward, len(shape), gated=gated, dtype=dtype)
        decoder = nets.MLP(backwards, outward, gated=gated, dtype=dtype)
    encoder = density.from_linen(encoder, (1, *shape))
    if dataset.discrete and dataset.levels > 2:  # the encoder sees [0, 1]
        top = dataset.levels - 1
        encoder = density.Net(encoder.init, lambda params, x, apply=encoder.apply: apply(params, x / top))
    posterior = density.conditional(encoder, density.normal(), (latent,))
    likelihood = density.conditional(density.from_linen(decoder, (1, latent)), family, shape)
    return prior, posterior, likelihood


def build_objective(config, parts):
    """The training objective of a configuration."""
    if config.objective == "elbo":
        return objectives.maximum_likelihood(vae(*parts, kl=config.kl), config.beta)
    if config.objective == "dreg":
        return dreg(*parts, samples=config.samples)
    alpha = config.alpha if config.objective == "renyi" else 0.0
    return objectives.importance_weighted(vae(*parts), config.samples, alpha)


def run(config):
    """One experiment from configuration to report."""
    parallel.initialise(config.coordinator, config.processes, config.process)
    dataset = datasets.load(config.data, _protocol(config))
    check(config, dataset)
    parts = build_parts(config, dataset)
    model, objective = vae(*parts), build_objective(config, parts)
    per_epoch = order.steps_per_epoch(len(dataset.train), config.batch_size)
    steps = config.epochs * per_epoch if config.epochs is not None else (config.steps or 5000)
    plan = loop.Plan(
        steps, config.batch_size, config.every or max(1, steps // 40), config.patience, seeds=config.seeds
    )
    optimiser = optimisers.make(
        config.optimiser,
        config.learning_rate,
        steps,
        schedule=config.schedule,
        warm_up=config.warm_up,
        clip=config.clip,
    )
    trainer = engine.build(
        objectives.preprocessed(objective, dataset.preprocess),
        model.init,
        optimiser,
        ema=config.ema,
        accumulate=config.accumulate,
        seeds=len(config.seeds),
    )
    root = config.out or common.new_folder(f"vae-{config.data}")
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str)) | {
        "steps": steps,
        "every": plan.every,
    }
    identity = {k: v for k, v in settings.items() if k not in _NOT_PART_OF_THE_RUN}
    identity["protocol"] = f"{dataset.protocol.name} {dataset.protocol.hash}"
    kept = checkpoint.Checkpoints(root / "checkpoints", identity)
    if kept.steps() and not config.resume:
        raise ValueError(
            f"{root} already holds a run (up to step {kept.steps()[-1]}); add --resume to go on, or choose another --out"
        )
    state = trainer.init(config.seeds if len(config.seeds) > 1 else config.seeds[0])
    if config.resume:
        restored = kept.restore(state)
        if restored is not None:
            state = restored[1]
    folder = RunFolder(root, config.tensorboard, parallel.is_primary())
    folder.write("config.json", settings)
    folder.write("manifest.json", manifest())
    if parallel.is_primary():
        print(f"{config.data}, {dataset.protocol.name}: {dataset.protocol.description}\nrun folder {root}")
    validate = None
    if len(dataset.valid):
        validate = validation.validator(objective, dataset.valid, seeds=len(config.seeds))
    started = time.monotonic()
    state = loop.fit(
        trainer, plan, trainer.put(dataset.train), state, folder=folder, checkpoints=kept, validate=validate
    )
    best_step, best = kept.restore(state, kept.best_step())
    kept.close()
    trained = time.monotonic() - started
    if not parallel.is_primary():
        return
    params = trainer.eval_params(best)
    per_seed = [jax.tree.map(lambda x, i=i: x[i], params) for i in range(len(config.seeds))]
    per_seed = per_seed if len(config.seeds) > 1 else [params]
    records = [
        _evaluate(config, dataset, model, parts[1], p, seed)
        for p, seed in zip(per_seed, config.seeds, strict=True)
    ]
    result = {
        "records": {str(seed): record.as_dict() for seed, record in zip(config.seeds, records, strict=True)},
        "step": best_step,
    }
    folder.write("result.json", result)
    vae_report.write(root, config, dataset, parts, per_seed[0], records, folder, best_step)
    for seed, record in zip(config.seeds, records, strict=True):
        print(f"seed {seed}, step {best_step}: {record}")
    print(f"trained {trained:.0f} s; report in {root / 'report.md'}")


def _evaluate(config, dataset, model, posterior, params, seed):
    """The test record of one seed."""
    x = dataset.test[: config.eval_limit]
    with tqdm(total=len(x), unit="example", desc="evaluate", dynamic_ncols=True) as bar:
        return evaluate(
            model,
            params,
            x,
            key=jax.random.key(seed),
            samples=config.eval_samples,
            protocol=dataset.protocol.name,
            protocol_hash=dataset.protocol.hash,
            bin_width=dataset.bin_width,
            posterior=(posterior, params["posterior"]),
            progress=lambda done: bar.update(done - bar.n),
        )


if __name__ == "__main__":
    np.set_printoptions(precision=4)
    common.main(run, tyro.cli(Config, description=__doc__))
