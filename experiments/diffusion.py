"""Train a diffusion model, evaluate its bound (and its likelihood by ODE in the plane), and write a report with pictures.

python -m experiments.diffusion                                    # embedded digits, about a minute
python -m experiments.diffusion --data eight_gaussians             # in the plane, against the exact entropy
python -m experiments.diffusion --data mnist --net flat --steps 4000 --sampler heun
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from dlvm_jax import data as datasets
from dlvm_jax.data import toys
from dlvm_jax.evaluate import evaluate
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, schedules, sde, times
from dlvm_jax.models import diffusion, objectives
from dlvm_jax.nets import denoisers
from dlvm_jax.train import checkpoint, engine, loop, optimisers, order, parallel, validation
from dlvm_jax.train.run import RunFolder, manifest
from experiments import common, diffusion_report

IMAGE_RANGE = (-5.0, 13.3)  # ends of log-SNR, for 256 levels (Kingma et al. 2021)
PLANE_RANGE = (-6.0, 10.0)

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
    """ends of log-SNR of linear-log-snr and learned; default -5 13.3 for images, -6 10 in the plane"""
    target: Literal["edm", "x0", "epsilon", "score", "v", "velocity"] = "edm"
    """what the network predicts; edm: the preconditioned residual"""
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
    steps: int = 4000
    """training steps"""
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
    if config.dropout and plane:
        raise ValueError("--dropout belongs to the networks of images")
    if not plane and config.net == "mlp":
        raise ValueError("--net mlp is for points in the plane; use --net flat, unet or transformer")


def load(config):
    """The data set of a configuration: toys are sampled, images are integer levels."""
    return toys.dataset(config.data) if config.data in toys.TOYS else datasets.load(config.data, "levels")


def sampler(name, steps):
    """(process, denoise) -> (Solver, times), as models want it."""

    def make(process, denoise):
        return SAMPLERS[name](process, denoise), diffusion_report.grid_of(process, steps)

    return make


def build(config, event_shape, data_std, classes=None):
    """The model of a configuration."""
    width = config.width or (128 if len(event_shape) == 1 else 64)
    if len(event_shape) == 1:
        module = denoisers.DenoisingMLP((width,) * config.depth, config.fourier)
    elif config.net in (None, "flat"):
        module = denoisers.FlatNet(
            width, config.depth, config.patch, config.fourier, dropout=config.dropout, classes=classes
        )
    elif config.net == "unet":
        module = denoisers.UNet(width, blocks=config.depth, dropout=config.dropout, classes=classes)
    else:
        module = denoisers.Transformer(
            width,
            config.depth,
            config.patch,
            exponents=config.fourier,
            dropout=config.dropout,
            classes=classes,
        )
    net = diffusion.denoising_net(module, event_shape, None if classes is None else 0)
    ends = config.log_snr or (PLANE_RANGE if len(event_shape) == 1 else IMAGE_RANGE)
    return diffusion.denoiser(net, PROCESSES[config.process](*ends), event_shape, config.target, data_std)


def run(config):
    """One experiment from configuration to report."""
    check(config)
    dataset = load(config)
    event_shape = dataset.train.shape[1:]
    levels = dataset.levels if dataset.discrete else None
    seen = np.asarray(dataset.train[:10000], np.float64)
    data_std = (
        float(np.sqrt(np.mean(np.square(2 * seen / (levels - 1) - 1)))) if levels else float(seen.std())
    )
    if config.condition and dataset.train_labels is None:
        raise ValueError(f"--condition label needs labels, and {config.data} has none; leave it out")
    classes = None if config.condition is None else 1 + int(dataset.train_labels.max())
    model = build(config, event_shape, data_std, classes)
    given = lambda x, labels: x if classes is None else (x, np.asarray(labels, np.int32))  # noqa: E731
    density = diffusion.bound_density(model, sampler(config.sampler, config.sample_steps), levels)
    objective = (
        diffusion.maximum_bound(model, levels)
        if config.objective == "bound"
        else diffusion.denoising(
            model, config.objective, levels, TIMES_OF.get(config.process, times.uniform_times)
        )
    )
    if classes is not None:
        objective = diffusion.drop_labels(objective, classes, 0.1)
    optimiser = optimisers.make(
        "adam", config.learning_rate, config.steps, schedule="cosine", warm_up=config.warm_up, clip=1.0
    )
    trainer = engine.build(
        objectives.preprocessed(objective, dataset.preprocess),
        model.init,
        optimiser,
        ema=config.ema,
        devices=parallel.devices_for(config.batch_size),
    )
    order.steps_per_epoch(len(dataset.train), config.batch_size)
    state = trainer.init(config.seed)
    root = config.out or common.new_folder(f"diffusion-{config.data}")
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str)) | {"data_std": data_std}
    told = (
        "out",
        "resume",
        "guidance",
        "sampler",
        "sample_steps",
        "eval_samples",
        "eval_limit",
        "ode_examples",
    )
    identity = {name: value for name, value in settings.items() if name not in told}
    identity["protocol"] = f"{dataset.protocol.name} {dataset.protocol.hash}"
    kept = checkpoint.Checkpoints(root / "checkpoints", identity)
    state = common.restore(kept, state, config.resume)
    folder = RunFolder(root)
    folder.write("config.json", settings)
    folder.write("manifest.json", manifest())
    print(f"{config.data}, {dataset.protocol.name}: {dataset.protocol.description}\nrun folder {root}")
    plan = loop.Plan(config.steps, config.batch_size, max(1, config.steps // 20), seeds=(config.seed,))
    few = given(
        np.asarray(dataset.valid[:2000], np.float32), dataset.valid_labels[:2000] if classes else None
    )
    draws = max(1, (20_000 if len(event_shape) == 1 else 4_000) // len(objectives.unpack(few)[0]))
    few = jax.tree.map(lambda a: np.repeat(a, draws, axis=0), few)  # one draw alone is too noisy to choose by
    validate = validation.validator(objectives.maximum_likelihood(density), few)
    state = loop.fit(
        trainer,
        plan,
        trainer.put(given(dataset.train, dataset.train_labels)),
        state,
        folder=folder,
        checkpoints=kept,
        validate=validate,
    )
    step, best = kept.restore(state, kept.best_step())
    kept.close()
    params = trainer.eval_params(best)
    test = given(np.asarray(dataset.test, np.float32), dataset.test_labels)
    record = _evaluate(config, dataset, density, params, test, config.eval_limit, config.eval_samples)
    further = (
        plane_likelihood(model, params, toys.TOYS[config.data], test[: config.ode_examples or 2000])
        if len(event_shape) == 1
        else {}
    )
    result = {"record": record.as_dict(), "step": step, **further}
    if config.ode_examples and len(event_shape) > 1:
        by_ode = diffusion.ode_density(model, None, 50, levels, hutchinson=True)
        found = _evaluate(config, dataset, by_ode, params, test, config.ode_examples, 1)
        result["ode"] = found.as_dict()
        further["log p(x) by ODE"] = [found.log_likelihood, found.standard_error]
    folder.write("result.json", result)
    shown = model if classes is None else labelled(model, classes, config.guidance)
    drawn = diffusion.bound_density(shown, sampler(config.sampler, config.sample_steps), levels)
    diffusion_report.write(root, config, dataset, shown, drawn, params, record, further, folder, step)
    print(f"step {step}: {record}")
    for name, (value, error) in further.items():
        print(f"{name}: {value:.4f} ± {error:.4f} nats")
    print(f"trained {folder.seconds():.0f} s; report in {root / 'report.md'}")


def _evaluate(config, dataset, density, params, test, limit, samples):
    test = jax.tree.map(lambda a: a[:limit], test)
    with tqdm(
        total=len(jax.tree.leaves(test)[0]), unit="example", desc="evaluate", dynamic_ncols=True
    ) as bar:
        return evaluate(
            density,
            params,
            test,
            key=common.evaluation_key(config.seed),
            samples=samples,
            protocol=dataset.protocol.name,
            protocol_hash=dataset.protocol.hash,
            bin_width=dataset.bin_width,
            chunk=1,
            progress=lambda done: bar.update(done - bar.n),
        )


def labelled(model, classes, weight):
    """The model with the labels 0, 1, ..., 0, 1, ... for the rows of a batch, so that a column of a grid has one label."""
    steered = diffusion.guided(model, classes, weight)

    def denoise(params, x, t, context=None, key=None):
        return steered.denoise(params, x, t, jnp.arange(len(x)) % classes, key)

    return model._replace(denoise=denoise)


def plane_likelihood(model, params, toy, test):
    """Likelihood of test points by the ODE with the exact trace, and its distance from the exact one where that is known."""
    x = jnp.asarray(test)
    log_prob = np.asarray(jax.jit(diffusion.ode_density(model, None).log_prob)(params, None, x), np.float64)
    mean = lambda values: [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]  # noqa: E731
    found = {"log p(x) by ODE": mean(log_prob)}
    if toy.log_prob is not None:
        found["KL(data, model) by ODE"] = mean(np.asarray(toy.log_prob(x), np.float64) - log_prob)
    return found


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
