"""A diffusion model as an invertible map between data and noise."""

from collections.abc import Callable
from typing import Any

import jax

from dlvm_jax.functional.diffusion import ode, process, solvers
from dlvm_jax.models.diffusion import Denoiser, from_unit, to_unit
from dlvm_jax.models.objectives import unpack

__all__ = ["ode_map"]


def ode_map(model: Denoiser, steps: int = 50, levels: int | None = None) -> tuple[Callable, Callable]:
    """Two functions, each other's inverse: the latents of points by the probability-flow ODE, and the points of latents.

    encode: (params, x or (x, context), key=None) -> x at t_max, from x at t_min: of integers its mean there, or a draw with a
        key; of real data x itself, which is taken to have the noise of t_min
    decode: (params, z or (z, context)) -> x

    `steps` of order four with equal steps of log-SNR.  Shapes: [*batch, *event] -> same.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, section 4.3.
    """

    def path(params: Any, context: Any) -> tuple[process.Process, solvers.Solver, jax.Array]:
        noise = model.process(params)
        solver = ode.runge_kutta(noise, lambda x, t: model.denoise(params, x, t, context), "rk4")
        return noise, solver, solvers.log_snr_times(noise, steps)

    def encode(params: Any, batch: Any, key: jax.Array | None = None) -> jax.Array:
        x, context = unpack(batch)
        noise, solver, grid = path(params, context)
        if levels is not None:
            x = process.alpha(noise, noise.t_min) * to_unit(x, levels)
            if key is not None:
                x = x + process.sigma(noise, noise.t_min) * jax.random.normal(key, x.shape)
        return solvers.encode(noise, solver, grid[::-1], x)

    def decode(params: Any, latent: Any) -> jax.Array:
        z, context = unpack(latent)
        _, solver, grid = path(params, context)
        return from_unit(solvers.sample(solver, grid, z), levels)

    return encode, decode
