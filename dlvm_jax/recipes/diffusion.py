"""Diffusion models: a noise process, a network, what it predicts and a sampler by name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data, Spec
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, schedules, sde, solvers, times
from dlvm_jax.functional.diffusion.process import Process
from dlvm_jax.models import diffusion, objectives
from dlvm_jax.models.diffusion import Denoiser
from dlvm_jax.models.diffusion_latents import ode_map
from dlvm_jax.nets import denoisers
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.recipes.conditions import say_which_labels_are_missing
from dlvm_jax.recipes.networks import DTYPES
from dlvm_jax.settings import choice, setting

__all__ = ["NETS", "PROCESSES", "SAMPLERS", "TARGETS", "Diffusion", "Parts", "sampling_times"]

INTEGER_RANGE = (-5.0, 13.3)  # ends of log-SNR, for 256 levels (Kingma et al. 2021)
REAL_RANGE = (-6.0, 12.0)
STEPS = 1000  # of a table
HEADS = 4  # of the transformer
BINS = 64  # of each element of real data
FORGOTTEN = 0.1  # share of the labels that training hides
MEASURED = 10_000  # training images that the standard deviation is measured on
VALIDATED = 2000  # held-out examples of an evaluation
DRAWS = {True: 2_000, False: 20_000}  # at least so many draws in it: of integers, of real numbers


class NoiseProcess(NamedTuple):
    """A noise process by name.

    build: (low, high) -> Schedule; the ends of log-SNR, which those alone take that use them
    times: (Process, uniform numbers) -> times of training by a squared error
    steps: of a table
    """

    build: Callable[[float, float], diffusion.Schedule]
    help: str
    uses: tuple[str, ...] = ()
    times: Callable = times.uniform_times
    steps: int | None = None


def _fixed(make: Callable[[], Process]) -> Callable[[float, float], diffusion.Schedule]:
    return lambda low, high: diffusion.fixed(make())


PROCESSES = {
    "linear-log-snr": NoiseProcess(
        lambda low, high: diffusion.fixed(schedules.linear_log_snr(low, high)),
        "log signal-to-noise ratio linear in time",
        ("log_snr",),
    ),
    "learned": NoiseProcess(diffusion.learned, "log-SNR trained for little variance", ("log_snr",)),
    "vp": NoiseProcess(_fixed(schedules.variance_preserving), "linear beta"),
    "sub-vp": NoiseProcess(_fixed(schedules.sub_variance_preserving), "linear beta, less variance"),
    "edm": NoiseProcess(
        _fixed(schedules.edm),
        "noise is added, nothing shrinks",
        times=lambda noise, uniform: times.log_normal_times(uniform),
    ),
    "rectified": NoiseProcess(_fixed(schedules.rectified), "straight path"),
    "ddpm": NoiseProcess(
        _fixed(lambda: schedules.from_recursion(schedules.linear_betas(STEPS))),
        "table of linear betas",
        steps=STEPS,
    ),
    "cosine": NoiseProcess(
        _fixed(lambda: schedules.from_recursion(schedules.cosine_betas(STEPS))),
        "table of the cosine schedule",
        steps=STEPS,
    ),
}


class Sampler(NamedTuple):
    """A sampler by name: `build(process, denoise) -> Solver`."""

    build: Callable[[Process, Callable], solvers.Solver]
    help: str


SAMPLERS = {
    "ancestral": Sampler(ancestral.ancestral, "DDPM's, with noise"),
    "ddim": Sampler(ancestral.ddim, "first order"),
    "euler-maruyama": Sampler(sde.euler_maruyama, "of the SDE, with noise"),
    "heun": Sampler(ode.edm_heun, "EDM's, second order, two evaluations a step"),
    "dpm-2": Sampler(dpm.dpm_multistep, "DPM-Solver++ 2M"),
    "dpm-3": Sampler(lambda noise, denoise: dpm.dpm_multistep(noise, denoise, 3), "DPM-Solver++ 3M"),
}


class Target(NamedTuple):
    """What the network predicts, by name; discrete: the only data that have it are integers, or real numbers, None: all."""

    help: str
    discrete: bool | None = None


TARGETS = {
    "levels": Target("log-odds of the levels of each element, by default of integers", True),
    "bins": Target(f"of {BINS} bins of each element, by default of vectors", False),
    "edm": Target("the preconditioned residual, by default of real images"),
    "x0": Target("the clean point"),
    "epsilon": Target("the noise"),
    "score": Target("the score"),
    "v": Target("alpha epsilon - sigma x0"),
    "velocity": Target("that of the path"),
}

OBJECTIVES = {
    "bound": "the variational bound",
    "epsilon": "squared error of the noise, the simple loss of DDPM",
    "x0": "of the clean point",
    "v": "of v",
    "min_snr": "of the noise, weight capped at 5",
    "edm": "EDM's weight",
}

MOST_LEVELS = 1024  # of which a network says log-odds by default: it has as many outputs for each number
CONDITIONS = {"label": f"the class, hidden in {FORGOTTEN:.0%} of training for classifier-free guidance"}


class DenoisingNet(NamedTuple):
    """A network by name.

    build: (recipe, options) -> module, with its options `classes`, `outputs` and `dtype`
    width: where none is given;  images: whether it is of images, else of vectors
    """

    build: Callable[["Diffusion", dict[str, Any]], nn.Module]
    help: str
    width: int
    images: bool
    uses: tuple[str, ...]


def _mlp(recipe, options):
    return denoisers.DenoisingMLP((recipe.width,) * recipe.depth, recipe.fourier, **options)


def _flat(recipe, options):
    return denoisers.VDMResNet(
        recipe.width, recipe.depth, recipe.patch, recipe.fourier, dropout=recipe.dropout, **options
    )


def _unet(recipe, options):
    return denoisers.UNet(recipe.width, blocks=recipe.depth, dropout=recipe.dropout, **options)


def _transformer(recipe, options):
    if recipe.width % HEADS:
        raise ValueError(
            f"width of a transformer must be divisible by its {HEADS} heads, got {recipe.width}; "
            f"use {recipe.width + -recipe.width % HEADS}"
        )
    return denoisers.Transformer(
        recipe.width,
        recipe.depth,
        recipe.patch,
        heads=HEADS,
        exponents=recipe.fourier,
        dropout=recipe.dropout,
        **options,
    )


NETS = {
    "mlp": DenoisingNet(_mlp, "residual layers, of vectors", 128, False, ("fourier",)),
    "flat": DenoisingNet(
        _flat, "residual blocks at one resolution, of images", 64, True, ("patch", "fourier", "dropout")
    ),
    "unet": DenoisingNet(_unet, "of images", 64, True, ("dropout",)),
    "transformer": DenoisingNet(
        _transformer, "on patches of images", 64, True, ("patch", "fourier", "dropout")
    ),
}


class Parts(NamedTuple):
    """What the reports of a diffusion model look at.

    denoiser: network and noise process;  guided: the same steered to its labels, the denoiser itself without guidance
    levels, classes: of the data, None for real ones and where there are no labels
    """

    denoiser: Denoiser
    guided: Denoiser
    levels: int | None
    classes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion(Recipe):
    """A diffusion model of integer levels, or of real vectors or images (Kingma, Salimans, Poole, Ho 2021)."""

    process: str = choice("linear-log-snr", PROCESSES, "noise process")
    log_snr: tuple[float, float] | None = setting(
        None, f"ends of log-SNR; default {INTEGER_RANGE} of integers, {REAL_RANGE} of real numbers"
    )
    target: str | None = choice(
        None,
        TARGETS,
        f"what the network predicts; default levels of up to {MOST_LEVELS}, bins of vectors, else edm",
    )
    condition: str | None = choice(None, CONDITIONS, "model the examples given")
    guidance: float = setting(0.0, "weight of classifier-free guidance of samples")
    objective: str = choice("bound", OBJECTIVES, "training objective")
    net: str | None = choice(None, NETS, "network, by default mlp of vectors, flat of images")
    width: int | None = setting(
        None, "channels, or width of the layers; default 128 of the mlp, else 64", at_least=1
    )
    depth: int = setting(4, "layers, residual blocks, or blocks of each resolution", at_least=1)
    patch: int = setting(2, "side of the patches of an image", at_least=1)
    fourier: tuple[int, ...] = setting(
        (), "exponents n of Fourier features sin and cos(2^n pi x), as in 3 4 5"
    )
    dropout: float = setting(0.0, "dropout rate", at_least=0, below=1)
    sampler: str = choice("dpm-2", SAMPLERS, "how samples are drawn")
    sample_steps: int = setting(50, "steps of the sampler", at_least=1)
    dtype: str = choice("float32", DTYPES, "compute type of the network; the rest stays float32")

    training: ClassVar[Mapping[str, Any]] = {
        "batch_size": 128,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warm_up": 100,
        "clip": 1.0,
        "ema": 0.999,
        "evaluations": 20,
    }
    after_training: ClassVar[tuple[str, ...]] = ("guidance", "sampler", "sample_steps")

    @property
    def transform(self) -> str:
        """A diffusion is of integer levels."""
        return "levels"

    def training_for(self, spec: Spec) -> Mapping[str, Any]:
        """Vectors, whose networks are small, take more steps."""
        return {**self.training, "steps": 1000 if _of_images(spec) else 4000}

    def held_out(self, examples: Any) -> Any:
        """The first 2000, each so often that time and noise are drawn often enough to choose a checkpoint by."""
        few = jax.tree.map(lambda a: a[:VALIDATED], examples)
        x, _ = objectives.unpack(few)
        draws = max(1, DRAWS[x.dtype.kind in "biu"] // len(x))
        return jax.tree.map(lambda a: np.repeat(a, draws, axis=0), few)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.guidance and not self.condition:
            raise ValueError("guidance steers to a label; add condition='label'")
        if self.process == "learned" and self.objective != "bound":
            raise ValueError("process='learned' is trained by objective='bound' alone")
        most = PROCESSES[self.process].steps
        if most is not None and self.sample_steps > most:
            raise ValueError(
                f"sample_steps is at most the {most} steps of the table process={self.process!r}, got {self.sample_steps}"
            )

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        recipe = self.resolved(spec)
        recipe.check()
        images = NETS[recipe.net].images
        if images != _of_images(spec):
            fitting = " or ".join(repr(name) for name, net in NETS.items() if net.images != images)
            raise ValueError(
                f"net={recipe.net!r} is for {'images' if images else 'vectors'}, the examples of {spec.name} have shape "
                f"{spec.event_shape}; use net={fitting}"
            )
        if TARGETS[recipe.target].discrete not in (None, spec.discrete):
            fitting = [name for name, target in TARGETS.items() if target.discrete in (None, spec.discrete)]
            raise ValueError(
                f"target={recipe.target!r} is for {'real numbers' if spec.discrete else 'integers'}, the protocol "
                f"{spec.protocol!r} has {'integers' if spec.discrete else 'real numbers'}; use one of {', '.join(fitting)}"
            )
        if self.condition and spec.classes is None:
            raise ValueError(f"condition='label' needs labels, and {spec.name} has none; leave it out")

    def resolved(self, spec: Spec) -> Any:
        """The recipe with network, width and target of data of a spec filled in."""
        net = self.net or ("flat" if _of_images(spec) else "mlp")
        target = "edm" if _of_images(spec) or spec.discrete else "bins"
        if spec.discrete and spec.levels <= MOST_LEVELS:
            target = "levels"
        return dataclasses.replace(
            self,
            net=net,
            width=self.width or NETS[net].width,
            target=self.target or target,
        )

    def constants(self, data: Data, seed: int) -> Constants:
        """Of the training data: data_std;  level_log_prob, the levels' log-frequencies;  bins, the range of real numbers."""
        if self.condition:
            say_which_labels_are_missing(data)
        target = self.resolved(data.spec).target
        count = MEASURED if _of_images(data.spec) else None
        seen = np.asarray(data.preprocess(jax.random.key(seed), data.train[:count]), np.float64)
        if not data.discrete:
            found = {"data_std": seen.std()}
            return found | ({"bins": np.array([seen.min(), seen.max()])} if target == "bins" else {})
        found = {"data_std": np.sqrt(np.mean(np.square(2 * seen / (data.levels - 1) - 1)))}
        if target == "levels":
            counts = 1 + _level_counts(data, seed)
            found["level_log_prob"] = np.log(counts / counts.sum()).astype(np.float32)
        return found

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The diffusion model for data of a spec."""
        self.check()
        self.check_data(spec)
        recipe = self.resolved(spec)
        if self.target is None and "level_log_prob" in constants:  # an older run, with the odds of all levels
            recipe = dataclasses.replace(recipe, target="levels")
        levels = spec.levels if spec.discrete else None
        classes = spec.classes if self.condition else None
        denoiser = _denoiser(recipe, spec, constants, classes)
        jax.eval_shape(denoiser.init, jax.random.key(0))  # a network that does not fit the images says so
        guided = denoiser
        if self.guidance and classes is not None:
            guided = diffusion.guided(denoiser, classes, self.guidance)
        bound = diffusion.bound_density(denoiser, self._sampler, levels)
        density = bound._replace(sample=diffusion.bound_density(guided, self._sampler, levels).sample)
        encode, decode = ode_map(denoiser, levels=levels)
        return Model(
            density,
            density.init,
            self._objective(denoiser, levels, classes),
            objectives.negative_elbo(density),
            Parts(denoiser, guided, levels, classes),
            encode,
            decode,
            labels=classes is not None,
        )

    def _sampler(self, noise: Process, denoise: Callable) -> tuple[solvers.Solver, jax.Array]:
        """The solver of samples, and its times."""
        return SAMPLERS[self.sampler].build(noise, denoise), sampling_times(noise, self.sample_steps)

    def _objective(self, denoiser: Denoiser, levels: int | None, classes: int | None) -> Callable:
        """What training descends."""
        if self.objective == "bound":
            objective = diffusion.vlb_loss(denoiser, levels)
        else:
            objective = diffusion.denoising(denoiser, self.objective, levels, PROCESSES[self.process].times)
        return objective if classes is None else diffusion.drop_labels(objective, classes, FORGOTTEN)


def sampling_times(noise: Process, steps: int) -> jax.Array:
    """Times of a sampler: equal steps of log-SNR, or some steps of a table, to the clean point where there is one."""
    if noise.steps is not None:
        return solvers.table_times(noise, steps)
    return solvers.log_snr_times(noise, steps, clean=noise.t_min > 0)


def _of_images(spec: Spec) -> bool:
    return len(spec.event_shape) == 3


def _level_counts(data: Data, seed: int) -> np.ndarray:
    """How often each level occurs in the training data, [levels]."""
    counts = np.zeros(data.levels, np.int64)
    for number, start in enumerate(range(0, len(data.train), MEASURED)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        block = np.asarray(data.preprocess(key, data.train[start : start + MEASURED]), np.int64)
        counts += np.bincount(block.ravel(), minlength=data.levels)
    return counts


def _denoiser(recipe: Any, spec: Spec, constants: Mapping[str, np.ndarray], classes: int | None) -> Denoiser:
    """Network and noise process of a resolved recipe."""
    outputs = {"levels": spec.levels, "bins": BINS}.get(recipe.target)
    options = {"classes": classes, "outputs": outputs, "dtype": jnp.dtype(recipe.dtype)}
    net = diffusion.denoising_net(
        NETS[recipe.net].build(recipe, options), spec.event_shape, None if classes is None else 0
    )
    ends = recipe.log_snr or (INTEGER_RANGE if spec.discrete else REAL_RANGE)
    low, high = map(float, constants.get("bins", (0.0, 0.0)))
    return diffusion.denoiser(
        net,
        PROCESSES[recipe.process].build(*ends),
        spec.event_shape,
        recipe.target,
        float(constants["data_std"]),
        constants.get("level_log_prob"),
        (low, high) if recipe.target == "bins" else None,
        null_label=classes,
    )
