"""Autoregressive densities: each element given those before it, by one network whose outputs see only earlier inputs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dlvm_jax.functional.numerics import as_integer, log_mean_exp
from dlvm_jax.models.density import (
    Density,
    Net,
    OutputDistribution,
    as_arrays,
    batch_of,
    check_batches,
    check_shape,
    join,
)
from dlvm_jax.models.objectives import Objective
from dlvm_jax.models.tables import Tables, TableStepper, steps_of, tables_of

__all__ = ["Stepper", "autoregressive", "ensemble", "one_of", "stepper_from_linen"]


class Stepper(NamedTuple):
    """A causal network that goes from place to place, and keeps what it computed at those before: how samples are drawn.

    start: (params, x [n, *event], context) -> what is kept of n events at their beginning; of x only the shape is used
    step:  (params, kept, x, place) -> (raw parameters [n, group, width] of the place, what is kept after it); x is known at the
           places before
    """

    start: Callable[[Any, jax.Array, Any], Any]
    step: Callable[[Any, Any, jax.Array, ArrayLike], tuple[jax.Array, Any]]


def stepper_from_linen(module: nn.Module) -> Stepper:
    """The stepper of a Flax Linen module with methods `start(x, context)` and `step(kept, x, place)`."""
    return Stepper(
        lambda params, *inputs: module.apply(params, *inputs, method="start"),
        lambda params, *inputs: module.apply(params, *inputs, method="step"),
    )


def _repeated(context, shape):
    """Each context as often as it is drawn from: [B, ...] -> [shape * B, ...]."""
    if context is None:
        return None
    repeated = lambda c: jnp.broadcast_to(c, (*shape, *c.shape)).reshape(-1, *c.shape[1:])
    return jax.tree.map(repeated, as_arrays(context))


def autoregressive(
    net: Net,
    distribution: OutputDistribution,
    event_shape: Sequence[int],
    *,
    order: Sequence[int] | None = None,
    group: int = 1,
    stepper: Stepper | None = None,
) -> Density:
    """The exact density p(x | c) = prod_i p(x_i | x_<i, c) (Bengio & Bengio 2000, eq. 1).

    net:   x, or (x, c) -> raw parameters [*batch, *event_shape, distribution.width], those of an element from elements that
           come before it
    order: the places of the flattened event, from the first to the last; by default as they stand
    group: so many elements stand at a place (the channels of a pixel), and the distribution draws them together
    stepper: the network place by place; without one, a draw passes through the whole network at each place

    Raises ValueError for an order that is no permutation of the places.
    """
    event_shape = tuple(event_shape)
    ndim, size = len(event_shape), math.prod(event_shape)
    places = size // group
    order = range(places) if order is None else order
    if size % group or sorted(order) != list(range(places)):
        raise ValueError(
            f"an order names each of the {places} places of {group} elements once, from 0, got {list(order)}"
        )

    def flatten(x, trailing=()):
        return x.reshape(*x.shape[: x.ndim - ndim - len(trailing)], -1, *trailing)

    def outputs(params, x, context):
        raw = net.apply(params, join(x, context))
        expected = (*x.shape[-ndim:], distribution.width)
        if raw.shape[-ndim - 1 :] != expected:
            raise ValueError(
                f"the network of events of shape {event_shape} puts out [*batch, {', '.join(map(str, expected))}], "
                f"got an array of shape {raw.shape}"
            )
        return flatten(raw, (distribution.width,))

    def log_prob(params, key, x, context=None):
        x = check_shape(x, event_shape)
        batch = x.shape[: x.ndim - ndim]
        check_batches(batch, batch_of(context))
        return distribution.log_prob(flatten(x), outputs(params, x, context))

    def whole(params, context, x, place):
        raw = outputs(params, x, context)
        return jax.lax.dynamic_slice_in_dim(raw, place * group, group, axis=1), context

    start, at_place = stepper or (lambda params, x, context: context, whole)

    def draw(params, key, x, known, context):
        """Events like x [count, size], with all but the first `known` places drawn, one after another."""
        shape = (len(x), *event_shape)

        def step(carry, inputs):
            kept, x = carry
            number, place, key = inputs
            raw, kept = at_place(params, kept, x.reshape(shape), place)
            drawn = distribution.sample(key, raw, ()).astype(x.dtype)
            given = jax.lax.dynamic_slice_in_dim(x, place * group, group, axis=1)
            drawn = jnp.where(number < known, given, drawn)
            return (kept, jax.lax.dynamic_update_slice_in_dim(x, drawn, place * group, axis=1)), None

        steps = np.arange(places), np.asarray(order), jax.random.split(key, places)
        (_, x), _ = jax.lax.scan(step, (start(params, x.reshape(shape), context), x), steps)
        return x.reshape(shape)

    def sample(params, key, context=None, shape=()):
        batch = shape + batch_of(context)
        context = _repeated(context, shape)
        x = draw(params, key, jnp.zeros((math.prod(batch), size)), 0, context)
        return x.reshape(*batch, *event_shape), log_prob(params, None, x, context).reshape(batch)

    def complete(params, key, x, known, context=None):
        x, known = check_shape(x, event_shape), as_integer(known, "the number of known elements")
        if not 0 <= known <= size or known % group:
            raise ValueError(
                f"from 0 to all {size} elements of an event are known, {group} at a time, got {known}"
            )
        batch = x.shape[: x.ndim - ndim]
        check_batches(batch, batch_of(context))
        context = _repeated(context, batch[:-1])
        unknown = np.repeat(np.argsort(order) >= known // group, group)
        x = jnp.where(unknown, 0, flatten(x).reshape(-1, size))
        return draw(params, key, x, known // group, context).reshape(*batch, *event_shape)

    def log_probs(params, x, context=None):
        return tables_of(distribution, flatten(x), outputs(params, x, context))

    indices = np.arange(size).reshape(places, group)[np.asarray(order)]
    steps = steps_of(distribution, indices)
    parts = len(steps) // places  # steps at a place

    def tables_at(params, kept, x, number):
        place, part = jnp.asarray(order)[number // parts], number % parts
        raw, after = at_place(params, kept, x, place)
        here = jax.lax.dynamic_slice_in_dim(flatten(x), place * group, group, axis=1)
        found = tables_of(distribution, here, raw)
        if parts > 1:
            found = jax.lax.dynamic_slice_in_dim(found, part, 1, axis=1)
            after = jax.tree.map(lambda new, old: jnp.where(part == parts - 1, new, old), after, kept)
        return found, after

    return Density(
        net.init,
        sample,
        log_prob,
        "exact",
        reparameterised=not distribution.space.levels,
        space=distribution.space,
        tables=Tables(log_probs, steps, stepper and TableStepper(start, tables_at))
        if distribution.space.levels
        else None,
        complete=complete,
    )


def ensemble(members: Sequence[Density]) -> Density:
    """The mixture in equal parts of exact densities of one set of parameters: one network in several orders.

    log p(x) = log (1/M) sum_m p_m(x) (Germain et al. 2015, section 6.2).  Its training step takes one member (`one_of`).
    """

    def log_prob(params, key, x, context=None):
        return log_mean_exp(jnp.stack([m.log_prob(params, key, x, context) for m in members]))

    def sample(params, key, context=None, shape=()):
        key, key_which = jax.random.split(key)
        keys = jax.random.split(key, len(members))
        each = jnp.stack([m.sample(params, k, context, shape)[0] for m, k in zip(members, keys, strict=True)])
        batch = shape + batch_of(context)
        which = jax.random.randint(key_which, batch, 0, len(members))
        which = which.reshape(1, *batch, *(1,) * (each.ndim - 1 - len(batch)))
        x = jnp.take_along_axis(each, which, axis=0)[0]
        return x, log_prob(params, None, x, context)

    changed = {
        "sample": sample,
        "log_prob": log_prob,
        "reparameterised": False,
        "tables": None,
        "complete": None,
    }
    return members[0]._replace(**changed)


def one_of(objectives: Sequence[Objective]) -> Objective:
    """The objective of one member at a time, drawn in each step."""

    def objective(params, key, batch, step=None):
        key, key_which = jax.random.split(key)
        which = jax.random.randint(key_which, (), 0, len(objectives))
        return jax.lax.switch(which, list(objectives), params, key, batch)

    return objective
