"""A run of `experiments.vae` before it starts: its settings, what they rule out, its parts; and a finished one read back."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import tyro

from dlvm_jax import data as datasets
from dlvm_jax.models import objectives
from dlvm_jax.train import engine, loop, optimisers, order, parallel
from experiments import run as common
from experiments.vae import conditions
from experiments.vae import parts as vae_parts

__all__ = ["Config", "Prepared", "check", "check_data", "load", "prepare"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a variational autoencoder, evaluate it on the test set, and write a report with pictures."""

    data: str = "digits"
    """data set: digits (embedded), mnist, fashion_mnist, binarized_mnist, omniglot, freyfaces, cifar10"""
    protocol: str | None = None
    """split and transformation by name (an unknown name lists them); default: the set's usual one for the likelihood"""
    latent_dim: int = 8
    """dimension of the latent space"""
    prior: Literal[vae_parts.PRIORS] = "standard"
    """p(z): N(0, I), a learned Gaussian (of the context with --condition), a mixture of Gaussians, VampPrior with trained
    pseudo-inputs or with training images, autoregressive, flow (RealNVP), implicit by density ratio, diffusion (trained by its
    bound, evaluated by its ODE: costly), uniform on the sphere, wrapped normal on hyperbolic space"""
    posterior: Literal[
        "normal",
        "full-normal",
        "planar",
        "radial",
        "sylvester-orthogonal",
        "sylvester-householder",
        "sylvester-triangular",
        "householder",
        "iaf",
        "von-mises-fisher",
        "wrapped-normal",
    ] = "normal"
    """q(z|x): diagonal or full-covariance Gaussian, flows from a Gaussian, von Mises-Fisher on the sphere, wrapped normal"""
    likelihood: Annotated[
        Literal[
            "bernoulli",
            "normal",
            "shared-normal",
            "unit-normal",
            "discretised-logistic",
            "discretised-normal",
            "logistic-mixture",
            "categorical",
        ],
        tyro.conf.arg(aliases=["--decoder"]),
    ] = "bernoulli"
    """p(x|z): bernoulli for bits; discretised, mixture and categorical ones for grey levels; the normal ones (a scale for each
    pixel, one learned scale, scale 1) for dequantised data"""
    layers: Literal[1, 2] = 1
    """layers of latent variables; 2: p(z2) p(z1|z2), each of --latent-dim"""
    inference: Literal["top-down", "bottom-up"] = "top-down"
    """with two layers: q(z2|x) q(z1|x,z2) and p(x|z1,z2); or q(z1|x) q(z2|z1) and p(x|z1), z2 half as large, its networks half
    as wide"""
    condition: Literal["label", "quadrants-1", "quadrants-2", "quadrants-3"] | None = None
    """conditional VAE: given the label, or so many quadrants of the image, model the (rest of the) image"""
    components: int = 100
    """components of a mixture prior, pseudo-inputs of a VampPrior"""
    flow_steps: int = 4
    """steps of a flow posterior"""
    curvature: float = 1.0
    """minus the curvature of hyperbolic space"""
    net: Literal["mlp", "tanh", "gated", "residual", "dense", "conv", "gated-conv"] = "mlp"
    """encoder and decoder: dense layers of ReLU, of tanh (with Glorot's uniform initial weights), gated ones, with residual or
    dense connections, a small convolutional pair, or the gated one of van den Berg et al. 2018"""
    hidden: tuple[int, ...] = (300,)
    """widths of the hidden layers (channels for conv), from the data inwards"""
    start_at_mean: bool = False
    """start the bernoulli decoder's bias at the log-odds of the training images' means"""
    objective: Literal[
        "elbo",
        "iwae",
        "dreg",
        "renyi",
        "free-bits",
        "total-correlation",
        "wae",
        "info",
        "adversarial",
    ] = "elbo"
    """training objective: (beta-)ELBO, importance-weighted bound, its DReG gradient, Renyi bound, ELBO with free bits,
    beta-TCVAE, WAE with MMD, InfoVAE (beta weighs the KL), adversarial autoencoder"""
    kl: Literal["auto", "analytic", "sampled"] = "auto"
    """how the KL of the ELBO is computed in training (evaluation always samples); auto: analytic where it has a closed form"""
    beta: float = 1.0
    """weight of the KL (of the total correlation for total-correlation)"""
    beta_warm_up: int = 0
    """steps over which beta grows linearly from 0"""
    free_nats: float | None = None
    """KL in nats that each latent unit may spend for nothing, for free-bits"""
    regulariser: float | None = None
    """weight of the MMD (wae, info: default 100) or of the discriminator's signal (adversarial: default 1)"""
    samples: int = 1
    """latent samples of each example for iwae, dreg and renyi"""
    alpha: float | None = None
    """order of the renyi bound (0: iwae, 1: ELBO)"""
    steps: int | None = None
    """training steps; default 5000 unless --epochs is given"""
    epochs: int | None = None
    """passes over the training set, instead of --steps"""
    batch_size: int = 100
    """examples of a step"""
    shuffle: bool = True
    """give the examples a new order in each epoch, not always their own"""
    optimiser: Literal["adam", "adam-burda", "adamax", "adamw", "rmsprop", "sgd"] = "adam"
    """optimiser; adam-burda: that of the code of Burda et al. 2016, for gradients summed over 20 examples"""
    learning_rate: float = 1e-3
    """peak learning rate"""
    schedule: Literal["constant", "cosine", "stages"] = "constant"
    """learning-rate schedule over all steps; stages: eight, each three times as long as the one before (Burda et al. 2016)"""
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
    ais: int | None = None
    """also evaluate by annealed importance sampling with so many temperatures (a few thousand for a fair estimate)"""
    ais_limit: int = 100
    """test examples of --ais"""
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
    "ais",
    "ais_limit",
)

ADDED_LATER = {
    "inference": "top-down",
    "start_at_mean": False,
    "shuffle": True,
}  # what runs without a word of it have


def _protocol(config):
    """The protocol for the likelihood, unless one is named."""
    if config.protocol is not None:
        return config.protocol
    if config.likelihood == "bernoulli":
        return None
    return "dequantised" if config.likelihood in vae_parts.CONTINUOUS else "levels"


def check(config):
    """Raise ValueError for settings that are impossible whatever the data, before anything is loaded or written."""
    vae_parts.check(config)
    common.check_run(config)
    for name in ("latent_dim", "components", "flow_steps", "samples", "accumulate"):
        common.at_least(name, getattr(config, name), 1)
    for name in ("every", "patience", "eval_samples", "eval_limit", "ais", "ais_limit"):
        common.at_least(name, getattr(config, name), 1)
    for name in ("beta", "beta_warm_up", "free_nats", "regulariser"):
        common.at_least(name, getattr(config, name), 0)
    if config.alpha is not None and not math.isfinite(config.alpha):
        raise ValueError(f"--alpha must be a finite number, got {config.alpha}")
    if config.ais and (config.prior in ("sphere", "hyperbolic", "implicit") or config.condition):
        raise ValueError("--ais anneals an exact prior on R^M, without --condition; leave it out")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"--seeds needs different seeds, as in --seeds 0 1, got {config.seeds}")
    if config.processes is not None and config.out is None:
        raise ValueError("several processes need one --out that all of them see")


def check_data(config, dataset):
    """Raise ValueError for settings that do not fit the data."""
    if config.likelihood == "bernoulli" and not (dataset.discrete and dataset.levels == 2):
        raise ValueError(
            f"a bernoulli likelihood needs bits, the protocol {dataset.protocol.name!r} has {dataset.levels} levels; "
            "use --likelihood discretised-logistic or a binarising --protocol"
        )
    continuous = config.likelihood in vae_parts.CONTINUOUS
    if continuous == dataset.discrete:
        raise ValueError(
            f"a {config.likelihood} likelihood needs {'real' if continuous else 'integer'} data, the protocol "
            f"{dataset.protocol.name!r} is {'discrete' if dataset.discrete else 'real'}; "
            f"use --protocol {'dequantised' if continuous else 'levels'}"
        )
    if config.prior in ("vamp", "vamp-data") and config.components > len(dataset.train):
        raise ValueError(
            f"--components is at most the {len(dataset.train)} training images, which the pseudo-inputs start from, "
            f"got {config.components}"
        )
    if config.patience is not None and not len(dataset.valid):
        raise ValueError(
            f"--patience needs a validation set, and the protocol {dataset.protocol.name!r} has none"
        )


class Prepared(NamedTuple):
    """All of a run but its folder: data, model, plan, trainer, and what tells it from other runs."""

    dataset: Any
    condition: Any
    model: vae_parts.Model
    plan: loop.TrainConfig
    trainer: engine.Engine
    settings: dict
    identity: dict


def prepare(config):
    """The `Prepared` run of a configuration."""
    dataset = datasets.load(config.data, _protocol(config))
    check_data(config, dataset)
    condition = conditions.make(config.condition, dataset)
    model = vae_parts.build(config, dataset, condition.event, condition.context)
    per_epoch = order.steps_per_epoch(len(dataset.train), config.batch_size)
    steps = config.epochs * per_epoch if config.epochs is not None else (config.steps or 5000)
    common.warn_of_unfinished("the warm-up of the KL term", config.beta_warm_up, steps)
    plan = loop.TrainConfig(
        steps,
        config.batch_size,
        config.every or max(1, steps // 40),
        config.patience,
        seeds=config.seeds,
        patience_from=config.beta_warm_up,
        shuffle=config.shuffle,
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
        objectives.preprocessed(objectives.split(model.objective, condition.split), dataset.preprocess),
        model.init,
        optimiser,
        ema=config.ema,
        accumulate=config.accumulate,
        seeds=len(config.seeds),
        devices=parallel.devices_for(config.batch_size // config.accumulate),
    )
    rounds = -(-steps // plan.every)
    if config.patience is not None and config.patience >= rounds:
        raise ValueError(
            f"--patience {config.patience} needs more than the {rounds} validations of this run; lower it or --every"
        )
    if not config.shuffle and len(dataset.train) % config.batch_size:
        raise ValueError(
            f"--no-shuffle needs a --batch-size that divides the {len(dataset.train)} training examples, "
            f"got {config.batch_size}"
        )
    settings = common.settings(config) | {"steps": steps, "every": plan.every}
    identity = {
        name: value
        for name, value in settings.items()
        if name not in _NOT_PART_OF_THE_RUN and value != ADDED_LATER.get(name, ...)
    }
    identity["protocol"] = f"{dataset.protocol.name} {dataset.protocol.hash}"
    return Prepared(dataset, condition, model, plan, trainer, settings, identity)


def load(root):
    """(configuration, dataset, model, parameters of the first seed) of a finished run of this script."""
    config = common.read_config(root, Config)
    prepared = prepare(config)
    start = common.start(prepared.trainer, prepared.plan)
    params = prepared.trainer.eval_params(common.best(root, prepared.identity, start))
    several = len(config.seeds) > 1
    return (
        config,
        prepared.dataset,
        prepared.model,
        jax.tree.map(lambda x: x[0], params) if several else params,
    )
