"""The methods that restore images: each has one setting at most, which is chosen on validation images."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional import restoration
from dlvm_jax.functional.diffusion import dpm, inverse, process, solvers
from dlvm_jax.models.diffusion import to_unit
from dlvm_jax.models.restoration import autoencoder
from dlvm_jax.recipes.diffusion import sampling_times
from dlvm_jax.train.fitted import Fitted
from experiments.restoration.problems import Problem

__all__ = ["Method", "methods"]

TOLERANCE = 1e-4  # of the largest value, at which the alternation stops
TV_WEIGHTS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
TV_ITERATIONS, CHAMBOLLE = 40, 30
BALANCES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
DIFFUSION = {"moment matching": inverse.moment_matching, "PiGDM": inverse.pigdm}
SAMPLE_STEPS, DRAWS = 50, 8


class Method(NamedTuple):
    """A method by name.

    prepare:  (problem, y, setting) -> the function y -> x, or `Restored` of an iteration that stops by itself, compiled for
              such y; None where the method does not apply
    settings: those that are tried, (None,) where there is nothing to choose
    setting:  what they are
    """

    prepare: Callable
    settings: tuple = (None,)
    setting: str = ""


def methods(
    config: Any, fitted: Fitted, diffusion: Fitted | None, guess: tuple, peak: float
) -> dict[str, Method]:
    """The methods by name; std is that of the noise, guess the mean and standard deviation of each pixel."""
    std = config.noise * peak
    found = {"observation": Method(lambda problem, y, _: problem.shown)}
    found["PnP-HVAE"] = Method(
        functools.partial(_hierarchical, fitted, std, guess, peak, config.iterations),
        config.temperatures,
        "temperature",
    )
    if diffusion is not None:
        for name, method in DIFFUSION.items():
            for draws, said in ((1, "a draw"), (DRAWS, f"mean of {DRAWS}")):
                run = functools.partial(
                    _diffusion, diffusion, std, jax.random.key(config.seed), method, draws
                )
                found[f"{name}, {said}"] = Method(run)
    try:
        import skimage.restoration
    except ImportError:
        warnings.warn(
            "total variation and Wiener filtering are left out, they need scikit-image: pip install 'dlvm_jax[restoration]'",
            stacklevel=2,
        )
        return found
    classical = skimage.restoration
    found["total variation"] = Method(
        functools.partial(_total_variation, classical, peak), TV_WEIGHTS, "weight"
    )
    found["Wiener"] = Method(functools.partial(_wiener, classical, peak), BALANCES, "balance")
    return found


def _compiled(run, y):
    """The function, compiled for y, which waits for its result."""
    ready = jax.jit(run).lower(y).compile()
    return lambda y: jax.block_until_ready(ready(y))


def _hierarchical(fitted, std, guess, peak, iterations, problem: Problem, y, temperature):
    """PnP-HVAE within the range of the values, from the data step at the mean image."""
    run = autoencoder(fitted.model.parts, fitted.params, temperature)

    def restore(y):
        step = lambda mean, scale: jnp.clip(problem.step(y, std, mean, scale), 0, peak)
        start = step(*(jnp.broadcast_to(x, (len(y), *x.shape)) for x in guess))
        return restoration.pnp(run, step, start, iterations, TOLERANCE * peak, event_ndim=3)

    return _compiled(restore, y)


def _diffusion(fitted, std, key, method, draws, problem: Problem, y, _):
    """The mean of draws by a method of `functional.diffusion.inverse`, DPM-Solver++ 2M; the process sees x on [-1, 1]."""
    model, levels, params = fitted.model.parts.denoiser, fitted.model.parts.levels, fitted.params
    noise = model.process(params)
    scale = 2 / (levels - 1) if levels else 1.0
    shift = to_unit(jnp.zeros(()), levels)  # x is scale * level + shift

    def restore(y):
        at_zero = problem.observe(jnp.full(fitted.spec.event_shape, shift, jnp.float32))
        informed = method(
            noise,
            lambda x, t: model.denoise(params, x, t),
            problem.observe,
            scale * y + at_zero,
            scale * std,
            event_ndim=3,
        )
        key_start, key_steps = jax.random.split(key)
        start = process.prior_sample(noise, key_start, (draws, len(y), *fitted.spec.event_shape))
        solver = dpm.dpm_multistep(noise, informed)
        x = solvers.sample(solver, sampling_times(noise, SAMPLE_STEPS), start, key_steps)
        return (x.mean(0) - shift) / scale

    return _compiled(restore, y)


def _total_variation(classical, peak, problem: Problem, y, weight):
    """argmin |y - A x|^2 / 2 + weight TV(x), by FISTA (Beck & Teboulle 2009) with Chambolle's step of scikit-image."""
    x = jax.eval_shape(problem.shown, y)
    observe = jax.jit(problem.observe)
    adjoint = jax.jit(lambda v: jax.linear_transpose(problem.observe, x)(v)[0])

    def denoise(image):
        return classical.denoise_tv_chambolle(
            image, weight=weight / problem.square, eps=1e-5, max_num_iter=CHAMBOLLE, channel_axis=-1
        )

    def restore(y):
        y = y / peak
        x = point = np.asarray(problem.shown(y))
        speed = 1.0
        for _ in range(TV_ITERATIONS):
            gradient = np.asarray(adjoint(observe(point) - y)) / problem.square
            new = np.stack([denoise(image) for image in point - gradient])
            faster = (1 + math.sqrt(1 + 4 * speed**2)) / 2
            point = new + (speed - 1) / faster * (new - x)
            x, speed = new, faster
        return peak * x

    return restore


def _wiener(classical, peak, problem: Problem, y, balance):
    """Wiener deconvolution of scikit-image, of a blur."""
    if problem.kernel is None:
        return None

    def restore(y):
        return peak * np.stack(
            [
                np.stack(
                    [
                        classical.wiener(channel, problem.kernel, balance)
                        for channel in np.moveaxis(image, -1, 0)
                    ],
                    axis=-1,
                )
                for image in np.asarray(y / peak)
            ]
        )

    return restore
