"""Configuration of the diffusion experiment, what it rules out, and the parts it stands for."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from dlvm_jax import data as datasets
from dlvm_jax.data import toys
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, schedules, sde, times
from dlvm_jax.models import diffusion
from dlvm_jax.nets import denoisers
from experiments import run as common
from experiments.diffusion import report as diffusion_report

__all__ = ["Config", "build", "check", "classes_of", "load", "objective_of", "resolved", "sampler"]

IMAGE_RANGE = (-5.0, 13.3)  # ends of log-SNR, for 256 levels (Kingma et al. 2021)
PLANE_RANGE = (-6.0, 12.0)
HEADS = 4  # of the transformer
BINS = 64  # of each coordinate of a point in the plane

PROCESSES = {  # by name, of the two ends of log-SNR, which only the first two take
    "linear-log-snr": lambda low, high: diffusion.fixed(schedules.linear_log_snr(low, high)),
    "learned": diffusion.learned,
    "vp": lambda low, high: diffusion.fixed(schedules.variance_preserving()),
    "sub-vp": lambda low, high: diffusion.fixed(schedules.sub_variance_preserving()),
    "edm": lambda low, high: diffusion.fixed(schedules.edm()),
    "rectified": lambda low, high: diffusion.fixed(schedules.rectified()),
    "ddpm": lambda low, high: diffusion.fixed(schedules.from_recursion(schedules.linear_betas())),
    "cosine": lambda low, high: diffusion.fixed(schedules.from_recursion(schedules.cosine_betas())),
}

TIMES_OF = {
    "edm": lambda noise, uniform: times.log_normal_times(uniform)
}  # in training, where they are not uniform

SAMPLERS = {  # name: a solver of a process and a denoiser
    "ancestral": ancestral.ancestral,
    "ddim": ancestral.ddim,
    "euler-maruyama": sde.euler_maruyama,
    "heun": ode.edm_heun,
    "dpm-2": dpm.dpm_multistep,
    "dpm-3": lambda process, denoise: dpm.dpm_multistep(process, denoise, 3),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a diffusion model, evaluate it on the test set, and write a report with pictures."""

    data: str = "digits"
    """digits (embedded), mnist, fashion_mnist, cifar10, ... as integer levels; eight_gaussians, checkerboard, two_moons"""
    process: Literal["linear-log-snr", "learned", "vp", "sub-vp", "edm", "rectified", "ddpm", "cosine"] = (
        "linear-log-snr"
    )
    """noise process: linear or learned log signal-to-noise ratio, linear beta (vp, sub-vp), EDM, straight path, DDPM tables"""
    log_snr: tuple[float, float] | None = None
    """ends of log-SNR of linear-log-snr and learned; default -5 13.3 for images, -6 12 in the plane"""
    target: Literal["levels", "bins", "edm", "x0", "epsilon", "score", "v", "velocity"] | None = None
    """what the network predicts; levels: log-odds of the levels of each element (default for images); bins: of 64 bins of each
    coordinate (default in the plane); edm: the preconditioned residual"""
    condition: Literal["label"] | None = None
    """model the images given their labels, which a tenth of the training examples hide (classifier-free guidance)"""
    guidance: float = 0.0
    """weight of classifier-free guidance of the samples shown"""
    objective: Literal["bound", "epsilon", "x0", "v", "min_snr", "edm"] = "bound"
    """the variational bound, or a weight of the squared error (epsilon is the simple loss of DDPM)"""
    net: Literal["mlp", "flat", "unet", "transformer"] | None = None
    """network; default mlp for vectors, flat (residual blocks at one resolution) for images"""
    width: int | None = None
    """channels, or width of the layers; default 128 for the mlp, 64 else"""
    depth: int = 4
    """layers, residual blocks, or blocks a resolution"""
    patch: int = 2
    """side of the patches of the flat net and the transformer"""
    fourier: tuple[int, ...] = ()
    """exponents n of the Fourier features sin and cos(2^n pi x), as in 3 4 5; not for the unet"""
    dropout: float = 0.0
    """dropout rate of the image networks"""
    steps: int | None = None
    """training steps; default 1000 for images, 4000 in the plane"""
    batch_size: int = 128
    """examples of a step"""
    learning_rate: float = 2e-3
    """peak learning rate of Adam, which falls along a cosine"""
    warm_up: int = 100
    """steps over which the learning rate rises"""
    ema: float = 0.999
    """decay of the moving average of the parameters"""
    sampler: Literal["ancestral", "ddim", "euler-maruyama", "heun", "dpm-2", "dpm-3"] = "dpm-2"
    """how samples are drawn"""
    sample_steps: int = 50
    """steps of the sampler"""
    eval_samples: int = 10
    """draws of time and noise for each test example"""
    ode_examples: int | None = None
    """evaluate so many test examples by the probability-flow ODE; default 2000 in the plane, no images (slow)"""
    eval_limit: int | None = None
    """evaluate on the first so many test examples only"""
    seed: int = 0
    """random seed"""
    out: Path | None = None
    """run folder; default runs/diffusion-DATA-001, 002, ..."""
    resume: bool = False
    """go on with the run in --out"""


def check(config):
    """Raise ValueError for impossible settings."""
    for name in (
        "width",
        "depth",
        "patch",
        "steps",
        "batch_size",
        "sample_steps",
        "eval_samples",
        "eval_limit",
        "ode_examples",
    ):
        common.at_least(name, getattr(config, name), 1)
    if not 0 <= config.dropout < 1:
        raise ValueError(f"--dropout is a rate in [0, 1), got {config.dropout}")
    if not 0 <= config.ema < 1:
        raise ValueError(f"--ema is a decay in [0, 1), got {config.ema}")
    if config.log_snr is not None and not np.isfinite(config.log_snr).all():
        raise ValueError(f"--log-snr needs two finite numbers, got {config.log_snr}")
    if config.process == "learned" and config.objective != "bound":
        raise ValueError("--process learned is trained by --objective bound alone")
    if config.resume and config.out is None:
        raise ValueError("--resume goes on with the run in --out; say which")
    if config.log_snr is not None and config.process not in ("linear-log-snr", "learned"):
        raise ValueError(f"--log-snr belongs to --process linear-log-snr or learned, not {config.process}")
    plane = config.data in toys.TOYS
    if config.guidance and not config.condition:
        raise ValueError("--guidance steers to a label; add --condition label")
    if plane and config.net not in (None, "mlp"):
        raise ValueError(
            f"--net {config.net} needs images, {config.data} is of points in the plane; use --net mlp"
        )
    if config.fourier and config.net == "unet":
        raise ValueError("--fourier belongs to the mlp, the flat net and the transformer, not to --net unet")
    width = resolved(config).width
    if config.net == "transformer" and width % HEADS:
        raise ValueError(
            f"--width of a transformer must be divisible by its {HEADS} heads, got {width}; use {width + -width % HEADS}"
        )
    if config.dropout and plane:
        raise ValueError("--dropout belongs to the networks of images")
    if config.target == ("levels" if plane else "bins"):
        raise ValueError("--target levels is for images, whose values are integers, and bins for the plane")
    if not plane and config.net == "mlp":
        raise ValueError("--net mlp is for points in the plane; use --net flat, unet or transformer")


def resolved(config):
    """The configuration with its defaults filled in."""
    plane = config.data in toys.TOYS
    return dataclasses.replace(
        config,
        steps=config.steps or (4000 if plane else 1000),
        width=config.width or (128 if plane else 64),
        target=config.target or ("bins" if plane else "levels"),
    )


def load(config):
    """The data set of a configuration: toys are sampled, images are integer levels."""
    return toys.dataset(config.data) if config.data in toys.TOYS else datasets.load(config.data, "levels")


def sampler(name, steps):
    """(process, denoise) -> (Solver, times), as models want it."""

    def make(process, denoise):
        return SAMPLERS[name](process, denoise), diffusion_report.grid_of(process, steps)

    return make


def build(config, dataset):
    """The model of a configuration, and the standard deviation of the data that it is given."""
    event_shape = dataset.train.shape[1:]
    plane = len(event_shape) == 1
    width, target = config.width, config.target
    classes = classes_of(config, dataset)
    images = {"classes": classes, "dropout": config.dropout}
    if target == "levels":
        images["outputs"] = dataset.levels
    if plane:
        outputs = BINS if target == "bins" else None
        module = denoisers.DenoisingMLP((width,) * config.depth, config.fourier, outputs=outputs)
    elif config.net in (None, "flat"):
        module = denoisers.VDMResNet(width, config.depth, config.patch, config.fourier, **images)
    elif config.net == "unet":
        module = denoisers.UNet(width, blocks=config.depth, **images)
    else:
        module = denoisers.Transformer(
            width, config.depth, config.patch, heads=HEADS, exponents=config.fourier, **images
        )
    net = diffusion.denoising_net(module, event_shape, None if classes is None else 0)
    ends = config.log_snr or (PLANE_RANGE if plane else IMAGE_RANGE)
    seen = np.asarray(dataset.train if plane else dataset.train[:10000], np.float64)
    data_std = (
        float(seen.std())
        if plane
        else float(np.sqrt(np.mean(np.square(2 * seen / (dataset.levels - 1) - 1))))
    )
    frequencies = None
    if target == "levels":
        counts = 1 + np.bincount(np.asarray(dataset.train, int).ravel(), minlength=dataset.levels)
        frequencies = np.log(counts / counts.sum()).astype(np.float32)
    noise = PROCESSES[config.process](*ends)
    bins = (float(seen.min()), float(seen.max())) if target == "bins" else None
    model = diffusion.denoiser(net, noise, event_shape, target, data_std, frequencies, bins)
    return model, data_std


def classes_of(config, dataset):
    """Number of labels of a conditional model, None for another.  Raises ValueError for data without labels."""
    if config.condition is None:
        return None
    if dataset.train_labels is None:
        raise ValueError(f"--condition label needs labels, and {config.data} has none; leave it out")
    return 1 + int(dataset.train_labels.max())


def objective_of(config, model, levels, classes):
    """What training descends."""
    if config.objective == "bound":
        objective = diffusion.vlb_loss(model, levels)
    else:
        times_of = TIMES_OF.get(config.process, times.uniform_times)
        objective = diffusion.denoising(model, config.objective, levels, times_of)
    return objective if classes is None else diffusion.drop_labels(objective, classes, 0.1)
