"""What samplers put out where the data are a Gaussian and the denoiser is exact: no network, no Monte Carlo, five digits."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, schedules, solvers
from experiments.reproduce.registry import Measured, Row

VARIANCE = 0.25  # of the data
EDM, CHAIN = "EDM grid", "linear betas of 1000 steps"
TABLE = {  # name: (sampler, grid, {steps: standard deviation put out over that of the data})
    "euler": (lambda p, f: ode.runge_kutta(p, f, "euler"), EDM, {6: "0.54781", 18: "0.84608", 80: "0.96466"}),
    "edm-heun": (ode.edm_heun, EDM, {6: "1.70608", 18: "1.05527", 80: "1.00231"}),
    "dpm-multistep-2": (dpm.dpm_multistep, EDM, {6: "1.01539", 18: "1.06230", 80: "1.00238"}),
    "ddim": (ancestral.ddim, CHAIN, {10: "0.72322", 50: "0.94383", 1000: "0.99699"}),
    "ancestral-small": (ancestral.ancestral, CHAIN, {1000: "0.99222"}),
    "ancestral-large": (lambda p, f: ancestral.ancestral(p, f, "large"), CHAIN, {1000: "1.00150"}),
}


def deviation(make: Callable, grid: str, steps: int) -> Callable[[Path, bool], Measured]:
    """(folder, quick) -> the standard deviation put out over that of the data; nothing is random, so its error is zero."""

    def run(folder, quick):
        with jax.enable_x64(True):
            if grid == EDM:
                process = schedules.edm()
                times, start = solvers.karras_times(process, steps), VARIANCE + 80.0**2
            else:
                process, start = schedules.from_recursion(schedules.linear_betas(1000)), 1.0
                times = solvers.table_times(process, steps)
            law = exact.gaussian(jnp.zeros(1), VARIANCE * jnp.eye(1))
            solver = make(process, lambda x, t: exact.denoiser(law, process, x, t))
            draws = (steps, solver.draws) if solver.draws else (1,)
            sampler = lambda x, noise: solvers.sample(solver, times, x, noise if solver.draws else None)
            _, out = exact.output_law(jax.jit(sampler), jnp.zeros(1), start * jnp.eye(1), draws)
            return Measured(float(jnp.sqrt(out[0, 0] / VARIANCE)), 0.0, {"seeds": []})

    return run


ROWS = [
    Row(
        name=f"law-{name}-{steps}",
        source="the law of an affine map",
        what=f"standard deviation put out over the exact one, {name}, {steps} steps",
        published=published,
        confirmed="the sampler's recursion written out in NumPy apart from this library",
        better="same",
        tolerance=2e-5,
        recipe=f"Data of N(0, 1/4), {grid}, from {'the exact marginal' if grid == EDM else 'N(0, 1)'} to the clean end.",
        evaluation="Jacobians of the sampler itself with respect to its start and its draws, float64.",
        run=deviation(make, grid, steps),
        minutes=0.1,
    )
    for name, (make, grid, table) in TABLE.items()
    for steps, published in table.items()
]
