"""Examples as a model takes them: of its precision, and inside of its space."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.models.objectives import unpack
from dlvm_jax.models.spaces import REALS, Space, check_numbers, check_points

__all__ = ["as_precise_as", "check_examples"]


def as_precise_as(params: Any, batch: Any) -> Any:
    """A batch, x or (x, context), as numpy arrays for given parameters.

    x becomes floating-point, of the precision of the parameters, float32 at least.  So do contexts that are floating-point;
    integers, such as labels, stay integers.
    """
    types = (jnp.result_type(leaf) for leaf in jax.tree.leaves(params))
    dtype = jnp.result_type(jnp.float32, *(t for t in types if jnp.issubdtype(t, jnp.floating)))

    def cast(array):
        array = np.asarray(array)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    x, context = unpack(batch)
    check_numbers(x)
    x = np.asarray(x, dtype)
    return x if context is None else (x, jax.tree.map(cast, context))


def check_examples(space: Space, examples: Any) -> None:
    """Raise ValueError for x, or (x, context), outside of the space, or with contexts that are not finite, or too few or many."""
    x, context = unpack(examples)
    check_points(space, x)
    for part in jax.tree.leaves(context):
        if len(part) != len(x):
            raise ValueError(
                f"each example has its own context, got {len(x)} examples and {len(part)} contexts"
            )
        check_points(REALS, part, "the context")
