"""Orders of convergence of samplers, on a Gaussian whose denoiser and flow map are known."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import ancestral, dpm, ode, process, schedules, solvers
from experiments.reproduce.registry import Measured, Row

MEAN, COVARIANCE = np.array([0.7, -1.2]), np.array([[0.9, 0.5], [0.5, 0.4]])
GRIDS = (80, 160, 320)

SAMPLERS = {  # name: (source, order, sampler, whether half of the range of log-SNR is taken)
    "ddim": ("Song, Meng, Ermon 2021", 1, ancestral.ddim, False),
    "edm-heun": ("Karras et al. 2022, algorithm 1", 2, ode.edm_heun, False),
    "dpm-solver-2": (
        "Lu et al. 2022 (DPM-Solver), theorem 3.2",
        2,
        lambda noise, denoise: dpm.dpm_singlestep(noise, denoise, 2),
        False,
    ),
    "dpm-solver-3": (
        "Lu et al. 2022 (DPM-Solver), theorem 3.2",
        3,
        lambda noise, denoise: dpm.dpm_singlestep(noise, denoise, 3),
        False,
    ),
    "dpm-multistep-3": (
        "Lu et al. 2022 (DPM-Solver++), section 4",
        3,
        lambda noise, denoise: dpm.dpm_multistep(noise, denoise, 3),
        True,
    ),
}


def order_of(sampler: Callable, half: bool) -> Callable[[Path, bool], Measured]:
    """(folder, quick) -> the order on the two finest grids; nothing is random, so its error is zero."""

    def run(folder, quick):
        with jax.enable_x64(True):
            noise = schedules.variance_preserving()._replace(t_min=0.02)
            if half:  # this sampler's first term is small: only short steps show the order
                noise = noise._replace(t_min=(noise.t_min * noise.t_max) ** 0.5)
            law = exact.gaussian(MEAN, COVARIANCE)
            solver = sampler(noise, lambda x, t: exact.denoiser(law, noise, x, t))
            start, errors = process.sigma(noise, noise.t_max) * jnp.eye(2) + 0.5, []
            for times in (solvers.log_snr_times(noise, steps) for steps in GRIDS):
                truth = exact.ode_map(law, noise, start, times[0], times[-1])
                errors.append(float(jnp.abs(solvers.sample(solver, times, start) - truth).max()))
        orders = np.log2(np.divide(errors[:-1], errors[1:]))
        return Measured(float(orders[-1]), 0.0, {"seeds": [], "errors": errors, "steps_of_the_grids": GRIDS})

    return run


ROWS = [
    Row(
        name=f"order-{name}",
        source=source,
        what=f"order of convergence, {name}",
        published=str(order),
        confirmed="the papers' theorems",
        better="same",
        tolerance=0.15,
        recipe="Variance-preserving process from t = 1 to 0.02 (0.14 for multistep-3, whose first term is small: only short "
        "steps show its order), a Gaussian of two correlated dimensions, equal steps of log-SNR.",
        evaluation="Largest error against the exact map of the ODE at 160 and 320 steps, float64.",
        run=order_of(sampler, half),
        minutes=0.1,
    )
    for name, (source, order, sampler, half) in SAMPLERS.items()
]
