"""Updates that are left out because their gradient is too large or not finite."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["SkipState", "skip_updates"]


class SkipState(NamedTuple):
    """What `skip_updates` counts, and the state of what it wraps.

    in_a_row: updates left out since the last one that was taken;  total: all that were left out
    """

    in_a_row: jax.Array
    total: jax.Array
    inner: Any


# Optax has three relatives, and none of them serves.  apply_if_finite does not look at the norm, and takes every update after
# too many in a row.  conditionally_mask counts nothing.  MultiSteps with skip_large_updates counts nothing either, and carries a
# second gradient.
def skip_updates(
    inner: optax.GradientTransformation, largest: float
) -> optax.GradientTransformationExtraArgs:
    """Leave out each update whose gradient's global norm is above `largest`, or not finite.

    Then the update is zero and the state of `inner` stays as it was, also its count of steps.  Nothing here ends a row of
    skips: who trains looks at `SkipState.in_a_row`, as `loop.run` does.

    inner:   the optimiser;  clipping belongs into it, so that the norm judged is that before clipping
    largest: the largest norm that is taken

    Raises ValueError for a norm that is not positive.  Source: Child 2021 (VDVAE), and its code.
    """
    if not largest > 0:
        raise ValueError(f"updates are skipped above a positive norm, got {largest}")
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return SkipState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra):
        norm = optax.tree.norm(updates)
        skipped = ~(jnp.isfinite(norm) & (norm <= largest))
        updates, after = inner.update(updates, state.inner, params, **extra)
        # both are computed, as by a vmap over seeds in any case: an optimiser costs little beside a gradient
        updates = jax.tree.map(lambda x: jnp.where(skipped, 0, x), updates)
        after = jax.tree.map(lambda old, new: jnp.where(skipped, old, new), state.inner, after)
        in_a_row = jnp.where(skipped, state.in_a_row + 1, 0)
        return updates, SkipState(in_a_row, state.total + skipped, after)

    return optax.GradientTransformationExtraArgs(init, update)
