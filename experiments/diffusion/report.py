"""Evaluation, pictures and report of a trained diffusion model."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data, toys
from dlvm_jax.evaluate import Record, evaluation_key, log_likelihood, paired, pictures
from dlvm_jax.evaluate.baseline_code_lengths import baseline_code_lengths
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, process, solvers
from dlvm_jax.models import diffusion
from dlvm_jax.models.diffusion import Denoiser
from dlvm_jax.recipes.base import examples_of
from dlvm_jax.recipes.diffusion import sampling_times
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.diffusion import judge

if TYPE_CHECKING:
    from experiments.diffusion.__main__ import Config

__all__ = ["evaluate_and_write", "solver_errors"]

FRAMES, SHOWN = 10, 100  # of a trajectory: frames, and steps that they are taken from
FINE = 400  # steps of the solution that samplers are compared with
EVALUATIONS = (6, 12, 24, 48)  # of the network, by each sampler that is compared
COLUMNS = 10  # of a grid of images


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Records of the bound and of the likelihood by ODE, pictures and report.md: the run's result, of the first seed."""
    test = examples_of(fitted.model, data.test, data.test_labels)
    first = lambda count: jax.tree.map(lambda a: a[:count], test)

    def evaluated(name, fitted, test, samples):
        key, place = evaluation_key(config.seeds[0]), folder.root / "evaluation" / name
        return log_likelihood(fitted, test, samples=samples, key=key, chunk=1, folder=place)

    record = evaluated("bound", fitted, first(config.eval_limit), config.eval_samples)
    result, further = {"record": record.as_dict(), "step": fitted.step}, {}
    if len(fitted.spec.event_shape) == 1 and not data.discrete:
        further = vector_likelihood(fitted, test, config.ode_examples or 2000)
        result |= further
    elif config.ode_examples:
        by_ode = diffusion.ode_density(
            fitted.model.parts.denoiser, None, 50, fitted.model.parts.levels, hutchinson=True
        )
        other = dataclasses.replace(fitted, model=fitted.model._replace(density=by_ode))
        found = evaluated("ode", other, first(config.ode_examples), 1)
        result["ode"] = found.as_dict()
        further["log p(x) by ODE"] = found.log_likelihood, found.standard_error
    result["curve"] = _curve(folder, fitted)
    if data.discrete and len(fitted.spec.event_shape) == 3:
        result["bits_per_dim_of_baseline_codes"] = baseline_code_lengths(data.train, data.test, data.levels)
    if config.classify:
        result["classifier"] = judge.judged(config, fitted, folder)
    _write(folder, config, data, fitted, record, further, result)
    print(f"step {fitted.step}: {record}")
    for name, (value, error) in further.items():
        print(f"{name}: {value:.4f} ± {error:.4f} nats")
    return result


def vector_likelihood(fitted: Fitted, test: Any, count: int) -> dict[str, tuple[float, float]]:
    """Likelihood of the first test vectors by the ODE with the exact trace; and its distance from the exact one, if known."""
    x, labels = test if isinstance(test, tuple) else (test, None)
    x, labels = jnp.asarray(x[:count]), None if labels is None else jnp.asarray(labels[:count])
    by_ode = diffusion.ode_density(fitted.model.parts.denoiser, None)
    log_prob = np.asarray(jax.jit(by_ode.log_prob)(fitted.params, None, x, labels), np.float64)
    found = {"log p(x) by ODE": paired(log_prob)}
    toy = toys.TOYS.get(fitted.spec.name)
    if toy is not None and toy.log_prob is not None:
        found["KL(data, model) by ODE"] = paired(np.asarray(toy.log_prob(x), np.float64) - log_prob)
    return found


def _labels(fitted: Fitted, rows: int) -> jax.Array | None:
    """The labels 0, 1, ..., 0, 1, ... of the rows of a batch, for a model that is given them."""
    classes = fitted.model.parts.classes
    return None if classes is None else jnp.arange(rows) % classes


def _trajectory(fitted: Fitted, rows: int, key: jax.Array) -> tuple[tuple[np.ndarray, np.ndarray], list[str]]:
    """x_t on its way from noise to data, and the x_0 predicted there: two arrays [frames, rows, *event], and names of the times.

    The frames lie at steps of log-SNR that are as equal as the sampler's grid allows.
    """
    model, labels = fitted.model.parts.guided, _labels(fitted, rows)

    @jax.jit
    def run(params, key):
        noise = model.process(params)
        denoise = lambda x, t: model.denoise(params, x, t, labels)
        key_start, key_steps = jax.random.split(key)
        start = process.prior_sample(noise, key_start, (rows, *model.event_shape))
        solver, grid = ancestral.ancestral(noise, denoise), sampling_times(noise, SHOWN)
        return solvers.sample(solver, grid, start, key_steps, trajectory=True)[1]

    points, predicted = (np.asarray(frames) for frames in run(fitted.params, key))
    noise = model.process(fitted.params)
    times = np.asarray(sampling_times(noise, SHOWN))[1:]
    log_snr = np.asarray(noise.log_snr(times))
    wanted = np.linspace(log_snr[0], log_snr[np.isfinite(log_snr)][-1], FRAMES)
    shown = [int(np.argmin(abs(log_snr - value))) for value in wanted[:-1]] + [len(times) - 1]
    return (points[shown], predicted[shown]), [f"t = {times[i]:.2g}" for i in shown]


def solver_errors(
    model: Denoiser, params: Any, key: jax.Array, labels: jax.Array | None = None, count: int = 64
) -> dict[str, list[float]]:
    """Root mean squared distance of deterministic samplers from a fine solution, by evaluations of the network."""
    start = process.prior_sample(model.process(params), key, (count, *model.event_shape))

    def ends(solver_of: Callable, steps: int) -> np.ndarray:
        def run(params, start):
            noise = model.process(params)
            solver = solver_of(noise, lambda x, t: model.denoise(params, x, t, labels))
            return solvers.sample(solver, sampling_times(noise, steps), start)

        return np.asarray(jax.jit(run)(params, start), np.float64)

    fine = ends(lambda noise, denoise: dpm.dpm_multistep(noise, denoise, 3), FINE)
    kinds = {
        "DDIM": (ancestral.ddim, 1),
        "Heun": (ode.edm_heun, 2),
        "DPM-Solver++ 2M": (dpm.dpm_multistep, 1),
        "DPM-Solver++ 3M": (lambda noise, denoise: dpm.dpm_multistep(noise, denoise, 3), 1),
    }
    return {
        name: [float(np.sqrt(np.mean((ends(solver, n // cost) - fine) ** 2))) for n in EVALUATIONS]
        for name, (solver, cost) in kinds.items()
    }


def _write(
    folder: RunFolder,
    config: "Config",
    data: Data,
    fitted: Fitted,
    record: Record,
    further: Mapping[str, tuple[float, float]],
    result: Mapping[str, Any],
) -> None:
    """Write samples, trajectory, solver errors, learning curves and report.md."""
    root = folder.root
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1), 3)
    images = len(fitted.spec.event_shape) == 3
    count = 100 if images else 2000
    labels = _labels(fitted, min(fitted.model.parts.classes or COLUMNS, COLUMNS))
    shape = (count,) if labels is None else (count // len(labels),)
    drawn, _ = jax.jit(lambda params, key: fitted.model.density.sample(params, key, labels, shape))(
        fitted.params, keys[0]
    )
    drawn = np.asarray(drawn).reshape(-1, *fitted.spec.event_shape)
    trajectory, names = _trajectory(fitted, 8 if images else count, keys[1])
    errors = solver_errors(fitted.model.parts.guided, fitted.params, keys[2], _labels(fitted, 64))
    if images:
        columns = COLUMNS if labels is None else len(labels)
        _image_pictures(root, config, fitted, data.test, drawn, trajectory, names, columns)
    else:
        _vector_pictures(root, data.test[:count], drawn, trajectory, names)
    _errors_picture(root / "solvers.png", errors)
    history = result["curve"]
    pictures.curves(
        root / "curves.png",
        {history["of"]: (history["minutes"], history["bound"])},
        f"bound, {history['unit']}",
        "minutes of training",
    )
    (root / "report.md").write_text(
        _report(config, data, fitted, record, further, result, folder.seconds(), errors)
    )


def _image_pictures(root, config, fitted, data, drawn, trajectory, times, columns):
    """Samples, real images and trajectories as grids of images."""
    discrete = fitted.spec.discrete
    unit = lambda x: x / (fitted.spec.levels - 1) if discrete else x
    pictures.grid(root / "data.png", unit(data[: len(drawn)]), columns, "test images")
    pictures.grid(
        root / "samples.png",
        unit(drawn),
        columns,
        f"{config.sampler}, {config.sample_steps} steps",
    )
    for name, frames in zip(("trajectory", "trajectory_x0"), trajectory, strict=True):
        seen = 0.5 * (frames + 1) if discrete else frames
        pictures.grid(
            root / f"{name}.png",
            np.moveaxis(seen, 0, 1).reshape(-1, *fitted.spec.event_shape),
            FRAMES,
            _title(name),
            above=times,
        )


def _vector_pictures(root, data, drawn, trajectory, times):
    """Samples and trajectories as points, of the first two columns."""
    _planes(root / "samples.png", [("data", data), ("model", drawn)], "samples", data)
    for name, frames in zip(("trajectory", "trajectory_x0"), trajectory, strict=True):
        _planes(root / f"{name}.png", list(zip(times, frames, strict=True)), _title(name), data)


def _title(name):
    """What a picture of a trajectory shows."""
    if name == "trajectory":
        return "x_t from noise to data, left to right"
    return "x_0 predicted at the same times"


def _planes(path: Path, columns: list[tuple[str, np.ndarray]], title: str, data: np.ndarray) -> None:
    """Scatter plots side by side, (name, points [N, D]), in the frame of the data."""
    across, up = 0, min(1, data.shape[1] - 1)
    low, high = data.min(0), data.max(0)
    margin = 0.1 * (high - low) + 1e-6
    figure = pictures.new_figure(figsize=(2.2 * len(columns), 2.5), layout="constrained")
    for axes, (name, points) in zip(np.atleast_1d(figure.subplots(1, len(columns))), columns, strict=True):
        axes.scatter(points[:, across], points[:, up], s=1, alpha=0.5)
        limits = {
            side: (low[i] - margin[i], high[i] + margin[i]) for side, i in (("xlim", across), ("ylim", up))
        }
        axes.set(**limits, xticks=[], yticks=[], title=name)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def _errors_picture(path, errors):
    figure = pictures.new_figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in errors.items():
        axes.loglog(EVALUATIONS, values, "o-", ms=3, label=name)
    axes.set(xlabel="evaluations of the network", ylabel="RMS distance from a fine solution")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)


def _curve(folder: RunFolder, fitted: Fitted) -> dict[str, Any]:
    """The validation bound of every evaluation (the training loss where nothing is held out) against minutes of training.

    In nats, or bits per dimension of integer data.
    """
    minutes = {line["step"]: line["seconds"] / 60 for line in folder.timing()}
    lines = [line for line in folder.metrics() if line["step"] in minutes]
    levels = fitted.model.parts.levels
    unit = -math.log(2) * math.prod(fitted.spec.event_shape) if levels else 1.0
    held_out = "valid_bound" in lines[-1]
    value = lambda line: np.mean(line["valid_bound"]) if held_out else -np.mean(line["loss"])
    return {
        "of": "validation" if held_out else "training",
        "unit": "bits/dim" if levels else "nats",
        "minutes": [round(minutes[line["step"]], 3) for line in lines],
        "bound": [float(value(line)) / unit for line in lines],
    }


def _bits_table(record, spec, codes):
    error = record.standard_error / (math.log(2) * math.prod(spec.event_shape))
    rows = "".join(f"| {name} | {bits:.4f} |\n" for name, bits in codes.items())
    return f"""| code of the test images (simple ones: all of them, fitted on the training images) | bits/dim |
|---|---|
| this model, at most | {record.bits_per_dim:.4f} ± {error:.4f} |
{rows}
"""


def _report(config, data, fitted, record, further, result, seconds, errors):
    """The report as Markdown."""
    lines = "".join(f"| {name} | {value:.4f} ± {error:.4f} |\n" for name, (value, error) in further.items())
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |"
        for name, values in errors.items()
    )
    codes = result.get("bits_per_dim_of_baseline_codes", {})
    bits = _bits_table(record, fitted.spec, codes) if data.discrete else ""
    names = ["samples", "data"] if len(fitted.spec.event_shape) == 3 else ["samples"]
    names += ["trajectory", "trajectory_x0", "solvers", "curves"]
    shown = "\n".join(f"![{name}]({name}.png)" for name in names)
    looks = judge.lines(result["classifier"]) if "classifier" in result else ""
    aim = (
        "It was trained for likelihood, by the bound."
        if config.objective == "bound"
        else "It was trained for looks: its loss weighs the noise levels otherwise than the bound, which is so much the looser."
    )
    given = ""
    if config.condition:
        given = f"; given the label (a column each in the samples, guidance {config.guidance:g})"
    return f"""# Diffusion model on {data.name}

Process {config.process}, network predicts {fitted.model.parts.denoiser.target}, objective {config.objective}{given}.
{aim}

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
Evaluated: {record.examples} test examples, {record.samples} draws of time and noise each, checkpoint of step {fitted.step},
{seconds:.0f} s of training.  ± is the standard error over examples.

| quantity | nats |
|---|---|
| variational bound on log p(x) | {record.log_likelihood:.4f} ± {record.standard_error:.4f} |
| reconstruction | {record.reconstruction:.4f} |
| diffusion and prior | {record.kl:.4f} |
{lines}
{bits}{looks}RMS distance of deterministic samplers from a fine solution with the same start, by evaluations of the network:

| sampler | {" | ".join(map(str, EVALUATIONS))} |
|---|{"---|" * len(EVALUATIONS)}
{rows}

{shown}

Settings: `config.json`; versions and devices: `manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
