"""Where a density lives: the values that its points may have."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = [
    "REALS",
    "Space",
    "check_numbers",
    "check_points",
    "hyperbolic",
    "levels",
    "pair",
    "sphere",
    "torus",
]

BLOCK = 4096  # points that are looked at together


@dataclasses.dataclass(frozen=True)
class Space:
    """A set of values; two spaces of one name are equal.

    name:    what it is called in messages
    holds:   (x [N, *event], a NumPy array) -> booleans that broadcast with x: whether a value, or a vector, lies in it
    levels:  number of values of an element, 0..levels-1; 0 where they are continuous
    """

    name: str
    holds: Callable[[np.ndarray], np.ndarray] = dataclasses.field(
        default=np.isfinite, compare=False, repr=False
    )
    levels: int = dataclasses.field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return self.name


REALS = Space("R^M")  # that of every density that names no other


def levels(count: int) -> Space:
    """The integers 0..count-1; raises ValueError for fewer than two."""
    if count < 2:
        raise ValueError(f"a discrete space has at least two levels, got {count}")
    name = "bits 0 and 1" if count == 2 else f"levels 0 to {count - 1}"
    return Space(name, lambda x: (x >= 0) & (x < count) & (x == np.floor(x)), count)


def sphere(dim: int) -> Space:
    """The unit sphere in R^dim."""
    return Space(
        f"the sphere in R^{dim}", lambda x: abs(np.linalg.norm(x, axis=-1, keepdims=True) - 1) < 1e-3
    )


def hyperbolic(dim: int, curvature: float) -> Space:
    """The Poincare ball of curvature -c in R^dim: c |x|^2 <= 1."""
    name = f"hyperbolic space of {dim} dimensions and curvature -{curvature:g}"
    return Space(name, lambda x: curvature * (x**2).sum(-1, keepdims=True) <= 1 + 1e-5)


def torus(dim: int) -> Space:
    """Vectors of `dim` angles, of period 2 pi."""
    return Space(f"the torus of {dim} angles")


def pair(first: Space, second: Space) -> Space:
    """Vectors whose first elements lie in one space and whose others in another."""
    return REALS if first == second == REALS else Space(f"{first} and {second}")


def check_numbers(x: Any, what: str = "the data") -> None:
    """Raise ValueError unless an array, or a list, holds real numbers: integers, booleans or floats of any width."""
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    if not any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        raise ValueError(f"{what} must be real numbers, got an array of type {dtype}; convert it")


def check_points(space: Space, x: Any, what: str = "the data") -> None:
    """Raise ValueError, in one line, where values of x [N, *event] lie outside of the space, NaN and infinities among them."""
    check_numbers(x, what)
    for start in range(0, len(x), BLOCK):
        block = np.asarray(x[start : start + BLOCK])
        inside = np.broadcast_to(space.holds(block), block.shape)
        if not inside.all():
            place = tuple(np.argwhere(~inside)[0])
            raise ValueError(
                f"the density is of {space}, and example {start + place[0]} of {what} has the value {block[place]:g}; "
                "give data as the model was trained on (`Data.test`), or choose a density of such values"
            )
