"""Log-probabilities of every level of every element of a discrete density: what an entropy coder needs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from dlvm_jax.models.density import OutputDistribution

__all__ = ["TableStepper", "Tables", "steps_of", "tables_of"]


class Tables(NamedTuple):
    """A discrete density as one table for each element, given the elements of the steps before it.

    log_probs: (params, x, context=None) -> [*batch, D, L]; the table of an element does not look at x in its own and later steps
    steps:     indices of the flattened event, those of each step; elements of one step are independent
    stepper:   the same step by step, of a network that keeps what it computed
    """

    log_probs: Callable
    steps: tuple[tuple[int, ...], ...]
    stepper: "TableStepper | None" = None


class TableStepper(NamedTuple):
    """Tables in the order of the steps.

    start: (params, x [n, *event], context) -> what is kept of n events at their beginning; of x only the shape is used
    step:  (params, kept, x, number) -> (log-probabilities [n, elements, L] of the step of that number, what is kept after it);
           x is known in the steps before
    """

    start: Callable
    step: Callable


def tables_of(distribution: "OutputDistribution", x: jax.Array, outputs: jax.Array) -> jax.Array:
    """log P(x_i = l) of every level l: x [*batch, D], raw parameters [*batch, D, width] -> [*batch, D, L], nats."""
    if distribution.tables is not None:
        return distribution.tables(x, outputs)
    of_level = lambda level, raw: distribution.log_prob(level[None], raw[None])
    each = jax.vmap(jax.vmap(of_level, (0, None)), (None, 0))
    levels = jnp.arange(distribution.space.levels, dtype=jnp.float32)
    flat = outputs.reshape(-1, outputs.shape[-1])
    return each(levels, flat).reshape(*outputs.shape[:-1], len(levels))


def steps_of(distribution: "OutputDistribution", places: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """The steps in which elements can be drawn: places [P, G] of one after the other, G elements at each.

    Where the distribution couples the elements of a place, they take a step each.
    """
    if distribution.tables is not None:
        places = places.reshape(-1, 1)
    return tuple(map(tuple, places.tolist()))
