"""Autoregressive densities: each element given those before it, by one network whose outputs see only earlier inputs."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.numerics import log_mean_exp
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
from dlvm_jax.models.tables import Tables, steps_of, tables_of

__all__ = ["autoregressive", "ensemble", "one_of"]


def autoregressive(
    net: Net,
    distribution: OutputDistribution,
    event_shape: Sequence[int],
    *,
    order: Sequence[int] | None = None,
    group: int = 1,
) -> Density:
    """The exact density p(x | c) = prod_i p(x_i | x_<i, c) (Bengio & Bengio 2000, eq. 1).

    net:   x, or (x, c) -> raw parameters [*batch, *event_shape, distribution.width], those of an element from elements that
           come before it
    order: the places of the flattened event, from the first to the last; by default as they stand
    group: so many elements stand at a place (the channels of a pixel), and the distribution draws them together

    Scoring is one pass of the network, sampling one for each place.
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

    def sample(params, key, context=None, shape=()):
        batch = shape + batch_of(context)
        count = math.prod(batch)
        if context is not None:  # each context as often as it is drawn from
            context = jax.tree.map(
                lambda c: jnp.broadcast_to(c, (*shape, *c.shape)).reshape(count, *c.shape[1:]),
                as_arrays(context),
            )

        def step(x, inputs):
            place, key = inputs
            raw = outputs(params, x.reshape(count, *event_shape), context)
            raw = jax.lax.dynamic_slice_in_dim(raw, place * group, group, axis=1)
            drawn = distribution.sample(key, raw, ())
            return jax.lax.dynamic_update_slice_in_dim(x, drawn.astype(x.dtype), place * group, axis=1), None

        keys = jax.random.split(key, places)
        x, _ = jax.lax.scan(step, jnp.zeros((count, size)), (np.asarray(order), keys))
        x = x.reshape(count, *event_shape)
        return x.reshape(*batch, *event_shape), log_prob(params, None, x, context).reshape(batch)

    def log_probs(params, x, context=None):
        return tables_of(distribution, flatten(x), outputs(params, x, context))

    indices = np.arange(size).reshape(places, group)[np.asarray(order)]
    return Density(
        net.init,
        sample,
        log_prob,
        "exact",
        reparameterised=not distribution.space.levels,
        space=distribution.space,
        tables=Tables(log_probs, steps_of(distribution, indices)) if distribution.space.levels else None,
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

    first = members[0]
    return first._replace(sample=sample, log_prob=log_prob, reparameterised=False, tables=None)


def one_of(objectives: Sequence[Objective]) -> Objective:
    """The objective of one member at a time, drawn in each step."""

    def objective(params, key, batch, step=None):
        key, key_which = jax.random.split(key)
        which = jax.random.randint(key_which, (), 0, len(objectives))
        return jax.lax.switch(which, list(objectives), params, key, batch)

    return objective
