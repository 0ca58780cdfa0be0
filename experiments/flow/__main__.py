"""Fit a normalizing flow to data by maximum likelihood, evaluate its exact density, and write a report with pictures.

python -m experiments.flow                                  # eight Gaussians in the plane, about a minute
python -m experiments.flow --data breast_cancer             # a table; or one of your own: --data rows.npy
python -m experiments.flow --data digits --flow glow        # bits per dimension, with stated dequantisation
python -m experiments.flow --data mnist --flow spline-glow --width 32 --hidden 1 --batch-size 32 --steps 8000
"""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dlvm_jax import data as datasets
from dlvm_jax.data import files, tables, toys
from dlvm_jax.evaluate.baseline_code_lengths import baseline_code_lengths
from dlvm_jax.functional.densities import multivariate_normal_log_prob
from dlvm_jax.models import density, flows, image_flows, objectives, scalars
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP, SMALL
from dlvm_jax.train import engine, loop, optimisers, parallel, validation
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.flow import report as flow_report

VECTOR_FLOWS = (
    "coupling",
    "spline-coupling",
    "autoregressive",
    "spline-autoregressive",
    "umnn",
    "continuous",
)
IMAGE_FLOWS = ("glow", "spline-glow", "realnvp")


@dataclasses.dataclass(frozen=True)
class Config:
    """Fit a normalizing flow to data by maximum likelihood."""

    data: str = "eight_gaussians"
    """eight_gaussians, checkerboard, two_moons; breast_cancer, or a file of rows of numbers (.npy, .csv, or .npz with train,
    valid, test); digits, mnist, fashion_mnist, ... (dequantised by uniform noise)"""
    flow: Literal[(*VECTOR_FLOWS, *IMAGE_FLOWS)] = "spline-coupling"
    """couplings and masked autoregressive flows (affine or spline), monotonic networks, continuous; images: glow, realnvp"""
    depth: int = 4
    """layers, or steps of each level of an image flow"""
    levels: int = 2
    """scales of an image flow"""
    width: int = 64
    """width of the hidden layers of the networks"""
    hidden: int = 2
    """hidden layers, or residual blocks"""
    bins: int = 16
    """bins of a spline"""
    steps: int = 4000
    """training steps"""
    batch_size: int = 256
    """examples of a step"""
    learning_rate: float = 2e-3
    """peak learning rate of Adam, which falls along a cosine"""
    ema: float = 0.99
    """decay of the moving average of the parameters"""
    eval_limit: int | None = None
    """evaluate on the first so many test examples only"""
    seed: int = 0
    """random seed"""
    out: Path | None = None
    """run folder; default runs/flow-DATA-001, 002, ..."""
    resume: bool = False
    """go on with the run in --out"""


def check(config):
    """Raise ValueError for impossible settings."""
    for name in ("depth", "levels", "width", "hidden", "bins", "steps", "batch_size", "eval_limit"):
        common.at_least(name, getattr(config, name), 1)
    if not 0 <= config.ema < 1:
        raise ValueError(f"--ema is a decay in [0, 1), got {config.ema}")
    if config.resume and config.out is None:
        raise ValueError("--resume goes on with the run in --out; say which")
    if kind_of(config) != "images" and config.flow in IMAGE_FLOWS:
        raise ValueError(
            f"--flow {config.flow} is for images, {config.data} is of vectors; use one of {', '.join(VECTOR_FLOWS)}"
        )


def kind_of(config):
    """What the data are: "plane" for points of a known distribution, "table" for rows of numbers, else "images"."""
    if config.data in toys.TOYS:
        return "plane"
    return "table" if config.data in tables.TABLES or config.data.endswith(files.ARRAY_FILES) else "images"


def scalar_of(config):
    """The bijection of single numbers of a configuration."""
    if config.flow.startswith("spline"):
        return scalars.rational_quadratic(config.bins, 6.0)
    if config.flow == "umnn":
        net = MLP((config.width, config.width), (1,), activation=nn.tanh)
        return scalars.umnn(density.from_linen(net, (1, 17)), 16)
    return scalars.affine()


class Velocity(nn.Module):
    """A velocity field on vectors, of x and t (and a context)."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x, t, *context):
        return MLP(self.hidden, x.shape[-1:], activation=nn.tanh)((x, t[..., None], *context))


def layer_of(config, dim):
    """One layer of a flow on vectors."""
    hidden = (config.width,) * config.hidden
    scalar = scalar_of(config)
    if config.flow == "continuous":
        return flows.continuous(density.from_linen(Velocity(hidden), (1, dim), (1,)))
    if "coupling" in config.flow:
        size = dim // 2
        net = MLP(hidden, (dim - size, scalar.width), head_init=SMALL)
        moved = flows.coupling(density.from_linen(net, (1, size)), scalar, size)
    else:
        moved = flows.masked_autoregressive(
            density.from_linen(MADE(hidden, dim, scalar.width), (1, dim)), scalar
        )
    mixed = flows.lu_linear(dim) if dim <= 64 else flows.reverse(dim)  # dim^2 numbers
    return flows.chain(moved, mixed, flows.actnorm(dim))


def build(config, event_shape):
    """The flow and its density."""
    dim = math.prod(event_shape)
    if config.flow in IMAGE_FLOWS:
        make = image_flows.realnvp if config.flow == "realnvp" else image_flows.glow
        bijection = make(
            scalar_of(config), event_shape, config.levels, config.depth, config.width, config.hidden
        )
    else:
        depth = 1 if config.flow == "continuous" else config.depth
        unroll = min(depth, 8) if "coupling" in config.flow else 1
        bijection = flows.repeated(layer_of(config, dim), depth, unroll)
        if len(event_shape) > 1:
            bijection = flows.chain(bijection, image_flows.reshaped(event_shape), image_flows.from_logits())
    return bijection, flows.transformed(density.standard_normal(dim), bijection)


def load(config):
    """Points in the plane, rows of a table, or images dequantised by uniform noise: on [0, 1), new noise in each step."""
    return datasets.load(config.data, transform="dequantised")


def gaussian_log_prob(train, test):
    """Log-density of rows under the Gaussian of greatest likelihood, what a flow has to beat: mean and standard error."""
    factor = np.linalg.cholesky(np.cov(train.T, bias=True))
    return common.paired(
        np.asarray(multivariate_normal_log_prob(test, train.mean(0), np.float32(factor)), np.float64)
    )


def run(config):
    """One experiment from configuration to report."""
    check(config)
    dataset = load(config)
    kind = kind_of(config)
    event_shape = dataset.train.shape[1:]
    bijection, dens = build(config, event_shape)
    first = dataset.preprocess(jax.random.key(config.seed), jnp.asarray(dataset.train[:1000]))

    def init(key):
        return flows.data_dependent_init(dens.init(key), bijection, first)

    trainer = engine.build(
        objectives.preprocessed(objectives.negative_elbo(dens), dataset.preprocess),
        init,
        optimisers.make(
            "adam",
            config.learning_rate,
            config.steps,
            schedule="cosine",
            warm_up=config.steps // 20,
            clip=5.0,
        ),
        ema=config.ema,
        devices=parallel.devices_for(config.batch_size),
    )
    folder = RunFolder(config.out or common.new_folder(f"flow-{config.data}"))
    print(f"{config.data}, {dataset.protocol.name}: {dataset.protocol.description}\nrun folder {folder.root}")
    settings = common.settings(config)
    told = ("out", "resume", "eval_limit")
    identity = {name: value for name, value in settings.items() if name not in told}
    identity["protocol"] = f"{dataset.protocol.name} {dataset.protocol.hash}"
    params, step = common.train(
        folder,
        trainer,
        loop.TrainConfig(config.steps, config.batch_size, max(1, config.steps // 20), seeds=(config.seed,)),
        dataset.train,
        validation.validator(objectives.negative_elbo(dens), np.asarray(dataset.valid[:2000], np.float32)),
        settings=settings,
        identity=identity,
        resume=config.resume,
    )
    test = np.asarray(dataset.test[: config.eval_limit], np.float32)
    record = common.evaluate_with_progress(
        dens, params, test, dataset, config.seed, 1, folder.root / "evaluation"
    )
    result = {
        "record": record.as_dict(),
        "step": step,
        "parameters": sum(map(np.size, jax.tree.leaves(params))),
    }
    result["round_trip"] = round_trip(bijection, params["flow"], test[:200])
    if kind == "plane" and toys.TOYS[config.data].log_prob is not None:
        truth = np.asarray(toys.TOYS[config.data].log_prob(test), np.float64)
        result["KL(data, model)"] = common.paired(truth - record.per_example)
    if kind == "table":
        result["Gaussian"] = gaussian_log_prob(dataset.train, test)
    if kind == "images":
        raw = datasets.load(config.data, "levels")
        result["bits_per_dim_of_baseline_codes"] = baseline_code_lengths(raw.train, raw.test, raw.levels)
    flow_report.write(folder, config, kind, dataset, bijection, dens, params, result, record)
    folder.write("result.json", result)
    print(f"step {step}: {record}")
    if "KL(data, model)" in result:
        print("KL(data, model): {:.4f} ± {:.4f} nats".format(*result["KL(data, model)"]))
    print(f"trained {folder.seconds():.0f} s; report in {folder.root / 'report.md'}")


def round_trip(bijection, params, x):
    """The largest distance between a point and what inverse and forward make of it: what float32 leaves of exactness."""

    @jax.jit
    def distance(params, x):
        return jnp.abs(bijection.forward(params, bijection.inverse(params, x)[0])[0] - x).max()

    return float(distance(params, jnp.asarray(x)))


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
