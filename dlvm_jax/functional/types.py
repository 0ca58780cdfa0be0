"""Names of the types in annotations.  NumPy arrays work wherever an `Array` is asked for."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["Array", "Denoiser", "Key", "Numeric", "Shape"]

Array = jax.Array
Key = jax.Array  # a typed key, as of jax.random.key
Numeric = jax.Array | float  # an array, or one number that broadcasts against arrays
Shape = tuple[int, ...]
# (x_t, t) -> E[x_0 | x_t], for a time t that is a scalar or [*batch]
Denoiser = Callable[[jax.Array, Any], jax.Array]
