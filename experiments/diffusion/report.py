"""Pictures and report of a trained diffusion model."""

import math

import jax
import numpy as np
from matplotlib.figure import Figure

from dlvm_jax.evaluate import pictures
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, process, solvers

__all__ = ["curve", "grid_of", "write"]

FRAMES = 10
EVALUATIONS = (6, 12, 24, 48)  # of the network, by each sampler that is compared


def _trajectory(model, params, grid_of, solver_of, rows, key):
    """x_t on its way from noise to data, and the x_0 predicted there: two arrays [frames, rows, *event]."""

    @jax.jit
    def run(params, key):
        noise = model.process(params)
        denoise = lambda x, t: model.denoise(params, x, t)
        key_start, key_steps = jax.random.split(key)
        start = process.prior_sample(noise, key_start, (rows, *model.event_shape))
        grid = grid_of(noise)
        _, trajectory = solvers.sample(solver_of(noise, denoise), grid, start, key_steps, trajectory=True)
        return trajectory

    points, predicted = (np.asarray(frames) for frames in run(params, key))
    shown = np.linspace(0, len(points) - 1, FRAMES).astype(int)
    return points[shown], predicted[shown]


def _planes(path, columns, title):
    """Scatter plots side by side: (name, points [N, 2])."""
    figure = Figure(figsize=(2.2 * len(columns), 2.5), layout="constrained")
    for axes, (name, points) in zip(np.atleast_1d(figure.subplots(1, len(columns))), columns, strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=1, alpha=0.5)
        axes.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal", xticks=[], yticks=[], title=name)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def grid_of(noise, steps):
    """Times of a sampler: equal steps of log-SNR, or some steps of a table, to the clean point where there is one."""
    if noise.steps is not None:
        return solvers.table_times(noise, steps)
    return solvers.log_snr_times(noise, steps, clean=noise.t_min > 0)


def solver_errors(model, params, key, count=64):
    """Root mean squared distance of deterministic samplers from a fine solution, by evaluations of the network."""
    start = process.prior_sample(model.process(params), key, (count, *model.event_shape))

    def ends(solver_of, steps):
        def run(params, start):
            noise = model.process(params)
            solver = solver_of(noise, lambda x, t: model.denoise(params, x, t))
            return solvers.sample(solver, grid_of(noise, steps), start)

        return np.asarray(jax.jit(run)(params, start), np.float64)

    fine = ends(lambda noise, denoise: dpm.dpm_multistep(noise, denoise, 3), 400)
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


def _errors_picture(path, errors):
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in errors.items():
        axes.loglog(EVALUATIONS, values, "o-", ms=3, label=name)
    axes.set(xlabel="evaluations of the network", ylabel="RMS distance from a fine solution")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)


def write(folder, config, dataset, model, density, params, record, further, result):
    """Write samples, trajectory, solver errors, learning curves and report.md."""
    root = folder.root
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2**31 + 1), 3)
    plane = len(model.event_shape) == 1
    top = dataset.levels - 1 if dataset.discrete else 1.0
    count = 2000 if plane else 100
    drawn, _ = jax.jit(lambda params, key: density.sample(params, key, shape=(count,)))(params, keys[0])
    trajectory = _trajectory(
        model,
        params,
        lambda noise: grid_of(noise, 100),
        lambda noise, denoise: ancestral.ancestral(noise, denoise),
        count if plane else 8,
        keys[1],
    )
    errors = solver_errors(model, params, keys[2])
    if plane:
        _planes(
            root / "samples.png", [("data", dataset.test[:count]), ("model", np.asarray(drawn))], config.data
        )
        for name, frames in zip(("trajectory", "trajectory_x0"), trajectory, strict=True):
            title = "x_t from noise to data" if name == "trajectory" else "predicted x_0"
            _planes(root / f"{name}.png", [("", frame) for frame in frames], title)
    else:
        pictures.grid(
            root / "samples.png",
            np.asarray(drawn) / top,
            10,
            f"{config.sampler}, {config.sample_steps} steps",
        )
        for name, frames in zip(("trajectory", "trajectory_x0"), trajectory, strict=True):
            title = (
                "x_t from noise to data, left to right"
                if name == "trajectory"
                else "x_0 predicted at the same times"
            )
            images = np.moveaxis(0.5 * (frames + 1), 0, 1).reshape(-1, *model.event_shape)
            pictures.grid(root / f"{name}.png", images, FRAMES, title)
    _errors_picture(root / "solvers.png", errors)
    history = result["curve"]
    pictures.curves(
        root / "curves.png",
        {"validation": (history["minutes"], history["bound"])},
        f"bound, {history['unit']}",
        "minutes of training",
    )
    codes = result.get("bits_per_dim_of_baseline_codes", {})
    step = result["step"]
    (root / "report.md").write_text(
        _report(config, model, dataset, record, further, folder, step, errors, codes)
    )


def curve(folder, event_shape, levels):
    """The validation bound of every round against minutes of training: nats, or bits per dimension of integer data."""
    minutes = {line["step"]: line["seconds"] / 60 for line in folder.timing()}
    rounds = [line for line in folder.metrics() if line["step"] in minutes]
    unit = -math.log(2) * math.prod(event_shape) if levels else 1.0
    return {
        "unit": "bits/dim" if levels else "nats",
        "minutes": [round(minutes[line["step"]], 3) for line in rounds],
        "bound": [line["valid_bound"] / unit for line in rounds],
    }


def _bits_table(record, model, codes):
    error = record.standard_error / (math.log(2) * math.prod(model.event_shape))
    rows = "".join(f"| {name} | {bits:.4f} |\n" for name, bits in codes.items())
    return f"""| code of the test images (simple ones: all of them, fitted on the training images) | bits/dim |
|---|---|
| this model, at most | {record.bits_per_dim:.4f} ± {error:.4f} |
{rows}
"""


def _report(config, model, dataset, record, further, folder, step, errors, codes):
    lines = "".join(f"| {name} | {value:.4f} ± {error:.4f} |\n" for name, (value, error) in further.items())
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |"
        for name, values in errors.items()
    )
    bits = _bits_table(record, model, codes) if dataset.discrete else ""
    shown = "\n".join(
        f"![{name}]({name}.png)" for name in ("samples", "trajectory", "trajectory_x0", "solvers", "curves")
    )
    told = (
        f"; given the label (a column each in the samples, guidance {config.guidance:g})"
        if config.condition
        else ""
    )
    return f"""# Diffusion model on {config.data}

Process {config.process}, network predicts {config.target}, objective {config.objective}{told}.

{dataset.protocol.description} (protocol `{dataset.protocol.name}`, hash `{dataset.protocol.hash}`).
Evaluated: {record.examples} test examples, {record.samples} draws of time and noise each, checkpoint of step {step},
{folder.seconds():.0f} s of training.  ± is the standard error over examples.

| quantity | nats |
|---|---|
| variational bound on log p(x) | {record.log_likelihood:.4f} ± {record.standard_error:.4f} |
| reconstruction | {record.reconstruction:.4f} |
| diffusion and prior | {record.kl:.4f} |
{lines}
{bits}RMS distance of deterministic samplers from a fine solution with the same start, by evaluations of the network:

| sampler | {" | ".join(map(str, EVALUATIONS))} |
|---|{"---|" * len(EVALUATIONS)}
{rows}

{shown}

Settings: `config.json`; versions and devices: `manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
