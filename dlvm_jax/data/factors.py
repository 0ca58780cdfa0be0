"""Images with known independent factors, to measure disentanglement: a shape of some size and angle at some place.

A small counterpart of dSprites (Matthey et al. 2017), drawn instead of downloaded.  The angles span a quarter turn, so that,
unlike there, no two combinations give the same image and each factor is a function of the image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["LEVELS", "all_factors", "render"]

LEVELS = {"shape": 3, "size": 5, "angle": 8, "x": 8, "y": 8}  # square, ellipse, triangle; 7680 images in all


def all_factors() -> np.ndarray:
    """Every combination of the factors once, int32 [7680, 5], the last factor fastest."""
    grid = np.meshgrid(*map(np.arange, LEVELS.values()), indexing="ij")
    return np.stack(grid, -1).reshape(-1, len(LEVELS)).astype(np.int32)


def _distances(u, v):
    """Signed distances, negative inside, to a square, an ellipse and a triangle that fit into the unit circle, [3, ...]."""
    square = jnp.maximum(jnp.abs(u), jnp.abs(v)) - math.sqrt(0.5)
    a, b = 1.0, 0.5
    norm = jnp.hypot(u / a, v / b)
    slope = jnp.hypot(u / a**2, v / b**2)
    ellipse = jnp.where(slope > 0, norm * (norm - 1) / jnp.where(slope > 0, slope, 1.0), -b)  # first order
    sides = [math.pi / 3, math.pi, 5 * math.pi / 3]
    triangle = jnp.max(jnp.stack([u * math.cos(t) + v * math.sin(t) for t in sides]), axis=0) - 0.5
    return jnp.stack([square, ellipse, triangle])


def render(factors: np.ndarray, side: int = 32) -> np.ndarray:
    """Grey images of factors, float32 [N, side, side, 1] in [0, 1], antialiased: a pixel is the share of it that is covered.

    factors: integers [N, 5] in the order of `LEVELS`.  On [-1, 1]^2 the radius is 0.2 ... 0.4, the centre between -0.5 and
    0.5 (x to the right, y downwards), and the angle a multiple of 1/8 of a quarter turn.  Raises ValueError for other shapes
    or levels.
    """
    factors = np.asarray(factors)
    if factors.ndim != 2 or factors.shape[1] != len(LEVELS):
        raise ValueError(f"factors are [N, {len(LEVELS)}] ({', '.join(LEVELS)}), got shape {factors.shape}")
    if (factors < 0).any() or (factors >= list(LEVELS.values())).any():
        raise ValueError(f"factors are levels from 0 to below {LEVELS}; got some outside")
    blocks = [_render(factors[i : i + 1024], side) for i in range(0, len(factors), 1024)]
    return np.concatenate([np.asarray(block) for block in blocks])


@jax.jit(static_argnames="side")
def _render(factors, side):
    shape, size, angle, x, y = factors.T[..., None, None]
    radius = 0.2 + 0.2 * size / (LEVELS["size"] - 1)
    turn = angle * (math.pi / 2 / LEVELS["angle"])
    centre = lambda level, name: level / (LEVELS[name] - 1) - 0.5
    pixels = (jnp.arange(side) + 0.5) * 2 / side - 1
    right, down = pixels[None, None] - centre(x, "x"), pixels[None, :, None] - centre(y, "y")
    u = (jnp.cos(turn) * right + jnp.sin(turn) * down) / radius
    v = (jnp.cos(turn) * down - jnp.sin(turn) * right) / radius
    distance = jnp.take_along_axis(_distances(u, v), shape[None], axis=0)[0] * radius
    return jnp.clip(0.5 - distance * side / 2, 0.0, 1.0)[..., None]
