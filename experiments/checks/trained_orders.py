"""Orders of convergence of samplers on a network of our own, the diffusion model of the row eight-gaussians-diffusion."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from dlvm_jax import train
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, process, solvers
from experiments.checks import toys
from experiments.reproduce.readers import details_of
from experiments.reproduce.registry import Measured, Row

GRIDS, STARTS, CLEAN = (80, 160), 400, 0.3  # steps; points of the prior; the time where the paths end
SAMPLERS = {
    "ddim": ("Song, Meng, Ermon 2021", 1, ancestral.ddim),
    "edm-heun": ("Karras et al. 2022, algorithm 1", 2, ode.edm_heun),
    "dpm-multistep-2": ("Lu et al. 2022 (DPM-Solver++), section 4", 2, dpm.dpm_multistep),
}


def order_of(sampler: Callable) -> Callable[[Path, bool], Measured]:
    """(folder, quick) -> the order between two grids, and its error over the starting points (jackknife)."""

    def run(folder, quick):
        toys.RUNS["eight_gaussians", "diffusion"][0](folder, quick)
        fitted = train.load(folder)
        model, params = fitted.model.parts.denoiser, fitted.params
        noise = model.process(params)._replace(t_min=CLEAN)
        start = process.prior_sample(noise, jax.random.key(0), (STARTS, *model.event_shape))

        def ends(make, steps):
            solver = make(noise, lambda x, t: model.denoise(params, x, t))
            times = solvers.log_snr_times(noise, steps)
            return np.asarray(jax.jit(lambda x: solvers.sample(solver, times, x))(start), np.float64)

        truth = ends(lambda noise, denoise: ode.runge_kutta(noise, denoise, "rk4"), 1000)
        squares = np.stack([np.square(ends(sampler, steps) - truth).sum(-1) for steps in GRIDS])
        others = squares.sum(1, keepdims=True) - squares  # all starts but one
        orders = 0.5 * np.log2(others[0] / others[1])
        errors = np.sqrt(squares.mean(1)).tolist()
        return Measured(
            float(orders.mean()),
            float(np.sqrt((STARTS - 1) * orders.var())),
            {"seeds": [0], "errors": errors, "steps_of_the_grids": GRIDS, **details_of(folder)},
        )

    return run


ROWS = [
    Row(
        name=f"order-{name}-trained",
        source=source,
        what=f"order of convergence, {name}, our own network",
        published=str(order),
        confirmed="the papers' theorems",
        better="same",
        tolerance=0.15,
        recipe="The model of the row eight-gaussians-diffusion, from log-SNR -6 to 6.6 in equal steps.",
        evaluation=f"Root mean square over {STARTS} starts of the distance from 1,000 steps of the fourth order, at 80 and at "
        "160 steps, float32.",
        run=order_of(sampler),
        minutes=7,
        folder="eight-gaussians-diffusion",
    )
    for name, (source, order, sampler) in SAMPLERS.items()
]
