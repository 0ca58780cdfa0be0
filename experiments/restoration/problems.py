"""The problems: what is observed of an image, and the data step of each."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional import restoration
from dlvm_jax.functional.diffusion.inverse import average_pooling, blur, inpainting

__all__ = ["Problem", "problems"]

FACTOR = 2  # of super-resolution
MISSING = 0.5  # share of the random pixels
BLUR, RADIUS = 1.0, 2  # standard deviation and radius of the blur, in pixels
ITERATIONS = 30  # of conjugate gradients


class Problem(NamedTuple):
    """A linear problem.

    about:   what is observed, for the report
    observe: A, x [*batch, H, W, C] -> y
    step:    (y, std, mean, scale) -> the data step
    shown:   y -> an image, the plain observation
    square:  the largest eigenvalue of A^T A, or a bound of it
    kernel:  of a blur, else None
    """

    about: str
    observe: Callable
    step: Callable
    shown: Callable
    square: float
    kernel: np.ndarray | None = None


def _masked(about, mask):
    step = lambda y, std, mean, scale: restoration.data_step_masked(mask, y, std, mean, scale)
    return Problem(about, inpainting(mask), step, lambda y: y, 1.0)


def _general(about, observe, shown, square, kernel=None):
    def step(y, std, mean, scale):
        return restoration.data_step(observe, y, std, mean, scale, ITERATIONS, event_ndim=3)

    return Problem(about, observe, step, shown, square, kernel)


def _gaussian():
    """The kernel of the blur, whose sum is one."""
    line = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / BLUR) ** 2)
    kernel = np.outer(line, line)
    return (kernel / kernel.sum()).astype(np.float32)


def _enlarged(y):
    """Each pixel as a block: A^T (A A^T)^-1 of averages."""
    return jnp.repeat(jnp.repeat(y, FACTOR, -3), FACTOR, -2)


def problems(shape: tuple[int, int, int], key: jax.Array) -> dict[str, Problem]:
    """The problems of images [H, W, C] by name; super-resolution where the sides are even."""
    height, width, _ = shape
    box = np.ones((height, width, 1), np.float32)
    box[height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2] = 0
    pixels = (jax.random.uniform(key, (height, width, 1)) >= MISSING).astype(jnp.float32)
    kernel = _gaussian()
    found = {
        "box": _masked("a box of half the height and width in the middle is missing", jnp.asarray(box)),
        "pixels": _masked(f"each pixel is missing with probability {MISSING:g}", pixels),
        "blur": _general(
            f"circular Gaussian blur of standard deviation {BLUR:g}", blur(kernel), lambda y: y, 1.0, kernel
        ),
    }
    if height % FACTOR == 0 and width % FACTOR == 0:
        found[f"x{FACTOR}"] = _general(
            f"means of blocks of {FACTOR} x {FACTOR}: super-resolution",
            average_pooling(FACTOR),
            _enlarged,
            1 / FACTOR**2,
        )
    return found
