"""One training engine for every model.

A model hands over `objective(params, key, batch, step) -> (loss, metrics)` and nothing else.  The data live on the device; a
chunk of steps is one jitted `lax.scan` with donated state, so Python is not in the loop.  The randomness of step t is
`fold_in(key, t)` and the minibatch of step t depends on the seed and t alone (see `order`), so a state is all that a run needs
to go on, bit for bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dlvm_jax.train import parallel

__all__ = ["Engine", "State", "build"]


class State(NamedTuple):
    """All that a run carries: with several seeds every leaf has a leading seed axis."""

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    key: jax.Array


class Engine(NamedTuple):
    """What `build` returns.

    init:  (seeds) -> State, created on the devices it will live on
    chunk: (state, data, indices) -> (state, metrics); runs one step for each row of `indices` [steps, batch]
           ([steps, seeds, batch] with several seeds) and returns every metric per step [steps] ([steps, seeds]);
           the state passed in is consumed
    put:   (arrays) -> the same arrays, replicated on every device
    eval_params: (state) -> the parameters to evaluate: the moving average where there is one
    largest: (state) -> the largest absolute parameter; not finite as soon as one of them is not
    """

    init: Callable
    chunk: Callable
    put: Callable
    eval_params: Callable
    largest: Callable


def ema_decay_at(step, decay):
    """Decay of the moving average after `step` updates: min(decay, (1 + t) / (10 + t)), short memory while training is young."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def _gradient(objective, accumulate):
    """Gradient of the mean loss, over `accumulate` micro-batches one after the other."""
    gradient = jax.value_and_grad(objective, has_aux=True)
    if accumulate == 1:
        return gradient

    def accumulated(params, key, batch):
        # micro-batch i takes every accumulate-th example from the i-th on, so that each spans all devices
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, part):
            value = gradient(params, *part)
            return jax.tree.map(jnp.add, total, value), None

        keys = jax.random.split(key, accumulate)
        zero = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype),
            jax.eval_shape(gradient, params, keys[0], jax.tree.map(lambda x: x[0], parts)),
        )
        total, _ = jax.lax.scan(add, zero, (keys, parts))
        return jax.tree.map(lambda x: x / accumulate, total)

    return accumulated


def _largest(state):
    leaves = [jnp.max(jnp.abs(x)) for x in jax.tree.leaves(state.params)]
    return jnp.max(jnp.stack(leaves)) if leaves else jnp.zeros(())


def build(objective, init, optimizer, *, ema=None, accumulate=1, seeds=1, devices=None):
    """Build an `Engine`.

    objective:  (params, key, batch, step) -> (loss, metrics), scalars; batch is a minibatch of the data's leading axis
    init:       (key) -> params
    optimizer:  an Optax gradient transformation
    ema:        decay of the parameters' moving average, or None for none
    accumulate: number of micro-batches a step is split into
    seeds:      number of independent runs trained together by `vmap`
    devices:    devices the batch is split over (all by default)

    Raises ValueError for an impossible setting.
    """
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"the moving average's decay lies in [0, 1), got {ema}")
    for name, value in (("accumulate", accumulate), ("seeds", seeds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    mesh = parallel.mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec("data"))

    def create(seed):
        key_init, key_run = jax.random.split(jax.random.key(seed))
        params = init(key_init)
        average = None if ema is None else jax.tree.map(jnp.copy, params)
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), average, key_run)

    def step(state, data, index):
        if index.shape[0] % (mesh.size * accumulate):
            raise ValueError(
                f"a batch of {index.shape[0]} does not split over {mesh.size} device(s) and {accumulate} micro-batch(es)"
            )
        batch = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x[index], sharded), data)
        gradient = _gradient(lambda params, key, batch: objective(params, key, batch, state.step), accumulate)
        (loss, metrics), grads = gradient(state.params, jax.random.fold_in(state.key, state.step), batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if ema is not None:
            average = optax.incremental_update(params, average, 1 - ema_decay_at(state.step, ema))
        return State(state.step + 1, params, opt_state, average, state.key), {"loss": loss, **metrics}

    run = jax.vmap(step, in_axes=(0, None, 0)) if seeds > 1 else step

    def chunk(state, data, indices):
        return jax.lax.scan(lambda s, index: run(s, data, index), state, indices)

    create_all = jax.vmap(create) if seeds > 1 else create
    jitted_init = jax.jit(create_all, out_shardings=replicated)
    jitted_chunk = jax.jit(chunk, donate_argnums=0, out_shardings=replicated)

    def initialise(seed):
        if np.min(seed) < 0 or np.max(seed) >= 2**32:
            raise ValueError(f"a seed lies between 0 and 2^32 - 1, got {seed}")
        values = jnp.asarray(seed, jnp.uint32)
        if values.shape != ((seeds,) if seeds > 1 else ()):
            raise ValueError(f"expected {seeds} seed(s), got shape {values.shape}")
        return jitted_init(values)

    return Engine(
        initialise,
        jitted_chunk,
        lambda tree: parallel.replicate(tree, replicated),
        lambda state: state.params if ema is None else state.ema,
        jax.jit(_largest),
    )
