"""Diffusion in one dimension as a picture: densities, paths of the reverse SDE and of the ODE, and what they end in.

python -m experiments.diffusion.paths                       # seconds; nothing is trained: the score is exact
python -m experiments.diffusion.paths --process rectified
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.evaluate import pictures
from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import ode, process, schedules, sde, solvers
from dlvm_jax.functional.diffusion.process import Process
from dlvm_jax.settings import Settings, choice, setting
from dlvm_jax.train.run import RunFolder, manifest, new_folder
from experiments import run as common

__all__ = ["Config", "ends", "run"]

PROCESSES = {
    "vp": schedules.variance_preserving,
    "sub-vp": schedules.sub_variance_preserving,
    "rectified": schedules.rectified,
}
LAW = exact.mixture(jnp.array([0.6, 0.4]), jnp.array([[-1.0], [1.2]]), jnp.array([[[0.04]], [[0.09]]]))
SAMPLERS = {"reverse SDE": sde.euler_maruyama, "probability-flow ODE": ode.runge_kutta}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Draw the paths of a diffusion of two Gaussians on the line, whose score is exact."""

    process: str = choice("vp", PROCESSES, "noise process")
    steps: int = setting(500, "steps of the samplers", at_least=1)
    count: int = setting(20_000, "samples in the histograms", at_least=100)
    paths: int = setting(40, "paths that are shown", at_least=1)
    seed: int = setting(0, "seed of the samples")
    out: Path | None = setting(None, "folder; default runs/paths-001, 002, ...")


def ends(
    noise: Process, name: str, steps: int, count: int, key: jax.Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times [T], paths [T, count] and last points [count] of a sampler with the exact denoiser."""
    solver = SAMPLERS[name](noise, lambda x, t: exact.denoiser(LAW, noise, x, t))
    times = solvers.equal_times(noise, steps)
    key_start, key_steps = jax.random.split(key)
    start = process.prior_sample(noise, key_start, (count, 1))
    draws = key_steps if solver.draws else None
    last, (points, _) = jax.jit(lambda x: solvers.sample(solver, times, x, draws, trajectory=True))(start)
    whole = jnp.concatenate([start[None], points])[..., 0]
    return np.asarray(times), np.asarray(whole), np.asarray(last[..., 0])


def run(config: Config) -> None:
    """Paths of both samplers, their picture, and the moments of what they end in."""
    config.check()
    noise = PROCESSES[config.process]()
    found = {
        name: ends(noise, name, config.steps, config.count, jax.random.key(config.seed)) for name in SAMPLERS
    }
    root = config.out or new_folder("paths")
    folder = RunFolder(root)
    _picture(root / "paths.png", noise, found, config)
    mean = float(jnp.exp(LAW.log_weights) @ LAW.means[:, 0])
    square = float(jnp.exp(LAW.log_weights) @ (LAW.means[:, 0] ** 2 + LAW.variances[:, 0]))
    moments = {"exact": [mean, (square - mean**2) ** 0.5]}
    moments |= {name: [float(last.mean()), float(last.std())] for name, (*_, last) in found.items()}
    folder.write("config.json", config.as_dict())
    folder.write("manifest.json", manifest())
    folder.write(
        "result.json",
        {"mean and standard deviation": moments, "standard error": moments["exact"][1] / config.count**0.5},
    )
    (root / "report.md").write_text(_report(config, moments))
    print(f"report in {root / 'report.md'}")


def _picture(path, noise, found, config):
    """A row a sampler: paths over the density of x_t, noise on the left; beside them the last points and the data's density."""
    grid = np.linspace(-3.5, 3.5, 301)
    figure = pictures.new_figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(len(found), 2, width_ratios=(3, 1), sharey=True)
    log_density = jax.jit(jax.vmap(lambda t: exact.log_marginal(LAW, noise, jnp.asarray(grid)[:, None], t)))
    for (wide, narrow), (name, (times, whole, last)) in zip(panels, found.items(), strict=True):
        density = np.exp(log_density(jnp.asarray(times))).T
        density /= density.max(axis=0)  # each column by its own peak: the clean end is much higher
        wide.pcolormesh(times, grid, density, cmap="Blues", shading="nearest", vmax=1.5, rasterized=True)
        wide.plot(times, whole[:, : config.paths], color="C3", lw=0.5, alpha=0.7)
        wide.set(xlim=(times[0], times[-1]), ylim=(grid[0], grid[-1]), title=name, ylabel="$x_t$")
        narrow.hist(
            last,
            bins=120,
            range=(grid[0], grid[-1]),
            density=True,
            orientation="horizontal",
            color="C3",
            alpha=0.5,
        )
        clean = np.exp(exact.log_marginal(LAW, noise, jnp.asarray(grid)[:, None], float(times[-1])))
        narrow.plot(clean, grid, "k", lw=1)
        narrow.set(title="samples, density")
    panels[-1][0].set(xlabel="t, from noise to data; shade: the density of $x_t$, each time by its own peak")
    figure.savefig(path, dpi=110)


def _report(config, moments):
    rows = "\n".join(f"| {name} | {mean:.4f} | {std:.4f} |" for name, (mean, std) in moments.items())
    return f"""# Diffusion in one dimension: {config.process}

Two Gaussians on the line, the exact denoiser, {config.steps} equal steps, {config.count} samples.

| | mean | standard deviation |
|---|---|---|
{rows}

The standard error of a mean is {moments["exact"][1] / config.count**0.5:.4f}.

![paths](paths.png)
"""


if __name__ == "__main__":
    common.main(run, Config, __doc__)
