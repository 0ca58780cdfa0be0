"""One training engine for every model.

A model hands over `objective(params, key, batch, step) -> (loss, metrics)` and nothing else.  A chunk of steps is one jitted
loop with donated state, so Python is not in it.  Its first and last step are arguments: one program takes as many steps at
once as a second holds.  Its minibatches are taken from data on the device (`chunk`), or come from the host (`stream`).
The randomness of step t is `fold_in(key, t)` and the minibatch of step t depends on the seed
and t alone (see `order`), so a state is all that a run needs to go on, bit for bit.

A model may have variables, which train without gradient: running means, singular vectors, code books.  Then its params are the
pair (parameters, variables), and metrics["variables"] of its objective holds the variables of the next step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dlvm_jax.train import parallel, trees
from dlvm_jax.train.skipping import SkipState

__all__ = ["Engine", "State", "build"]


class State(NamedTuple):
    """All that a run carries: with several seeds every leaf has a leading seed axis.

    The params of a model with variables are the pair (parameters, variables); `opt_state` and `ema` are of the parameters alone.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    key: jax.Array


class Engine(NamedTuple):
    """What `build` returns.  With several seeds an index or a minibatch has a seed axis after that of the steps.

    seeds:  the random seeds that are trained together
    variables: whether the params are the pair (parameters, variables)
    init:   (params=None) -> State before the first step, on its devices; of the model's own params, or given ones
            (with several seeds of a leading seed axis); ValueError for those of another model
    chunk:  (state, data, indices, first=0, last=None) -> (state, metrics); one step for each row of `indices` [steps, (seeds,)
            batch] from `first` to before `last`, on data from `put`; every metric is [steps, (seeds)], zero where no step was
            taken; with `skip_updates`, "skipped" is how many updates in a row were left out up to this step, 0 for one
            that was taken; the state passed in is consumed
    stream: (state, batches, first=0, last=None) -> (state, metrics); the same steps on minibatches from `gather`
    put:    (arrays) -> the same arrays, replicated on every device
    gather: (arrays, indices) -> minibatches [steps, (seeds,) batch, ...] of arrays on the host (a memory-mapped file too),
            split over the devices; each process reads its own rows alone
    eval_params: (state) -> the params to evaluate, with the moving average where there is one
    largest: (state) -> the largest absolute parameter or variable; not finite as soon as one of them is not
    """

    seeds: tuple[int, ...]
    variables: bool
    init: Callable
    chunk: Callable
    stream: Callable
    put: Callable
    gather: Callable
    eval_params: Callable
    largest: Callable


def ema_decay_at(step: jax.Array, decay: float) -> jax.Array:
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


def _steps(step, state, rows, first, last):
    """Take step(state, row) -> (state, metrics) for the rows from `first` to before `last`; metrics as long as all rows."""
    step = jax.jit(step, inline=True)  # traced once for its shapes and for the loop
    row = lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), rows)
    length = len(jax.tree.leaves(rows)[0])
    none = jax.tree.map(
        lambda s: jnp.zeros((length, *s.shape), s.dtype), jax.eval_shape(step, state, row(0))[1]
    )

    def one(i, carry):
        state, kept = carry
        state, metrics = step(state, row(i))
        return state, jax.tree.map(
            lambda all_, x: jax.lax.dynamic_update_index_in_dim(all_, x, i, 0), kept, metrics
        )

    return jax.lax.fori_loop(first, last, one, (state, none))


def _taken_out(metrics, variables):
    """The metrics without the variables of the next step, and these; ValueError where they are not like those of this step."""
    metrics = dict(metrics)
    new = jax.tree.map(jnp.asarray, metrics.pop("variables", None))
    if variables is None and new is not None:
        raise ValueError(
            'the objective returns metrics["variables"], and the model has none; give Model.variables'
        )
    if different := trees.first_difference(trees.arrays(new), trees.arrays(variables)):
        raise ValueError(
            f'metrics["variables"], of the next step, must be like the variables of this one: {different}; '
            "let the objective return all of them, in the same shapes and types"
        )
    return metrics, new


def _largest(state):
    leaves = [jnp.max(jnp.abs(x)) for x in jax.tree.leaves(state.params) if x.size]
    return jnp.max(jnp.stack(leaves)) if leaves else jnp.zeros(())


def build(
    objective: Callable,
    init: Callable,
    optimizer: optax.GradientTransformation,
    *,
    ema: float | None = None,
    accumulate: int = 1,
    variables: bool = False,
    seeds: Sequence[int] = (0,),
    devices: Sequence[Any] | None = None,
) -> Engine:
    """Build an `Engine`.

    objective:  (params, key, batch, step) -> (loss, metrics), scalars; batch is a minibatch of the data's leading axis
    init:       (key) -> params
    optimizer:  an Optax gradient transformation; `skip_updates` is the outermost, if it is there
    ema:        decay of the parameters' moving average, or None for none
    accumulate: number of micro-batches a step is split into; the variables of the next step are the mean over theirs
    variables:  whether params are the pair (parameters, variables); only the parameters have gradients, an average and the
        optimiser.  The metric "variables" of the objective is then a tree like the variables, of floating-point arrays
    seeds:      random seeds; several are independent runs, trained together by `vmap`
    devices:    devices the batch is split over (all by default)

    Raises ValueError for an impossible setting.
    """
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"the moving average's decay lies in [0, 1), got {ema}")
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}")
    seeds = tuple(seeds)
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**32:
        raise ValueError(f"seeds lie between 0 and 2^32 - 1, one or more, got {seeds}")
    several = len(seeds) > 1
    mesh = parallel.mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    streamed = NamedSharding(mesh, PartitionSpec(None, *[None] * several, "data"))

    def parted(params):
        return params if variables else (params, None)

    def joined(parameters, others):
        return (parameters, others) if variables else parameters

    def create(seed, given):
        key_init, key_run = jax.random.split(jax.random.key(seed))
        params = init(key_init) if given is None else jax.tree.map(jnp.copy, given)
        parameters, _ = parted(params)
        average = None if ema is None else jax.tree.map(jnp.copy, parameters)
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(parameters), average, key_run)

    def check_splits(size):
        if size % (mesh.size * accumulate):
            raise ValueError(
                f"a batch of {size} does not split over {mesh.size} device(s) and {accumulate} micro-batch(es)"
            )

    def step(state, batch):
        check_splits(len(jax.tree.leaves(batch)[0]))
        batch = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharded), batch)
        parameters, others = parted(state.params)

        def loss_of(parameters, key, batch):
            return objective(joined(parameters, others), key, batch, state.step)

        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), grads = _gradient(loss_of, accumulate)(parameters, key, batch)
        metrics, next_others = _taken_out(metrics, others)
        updates, opt_state = optimizer.update(grads, state.opt_state, parameters)
        moved = optax.apply_updates(parameters, updates)
        average = state.ema
        if ema is not None:
            average = optax.incremental_update(moved, average, 1 - ema_decay_at(state.step, ema))
        params = joined(moved, next_others)
        if isinstance(opt_state, SkipState):
            metrics["skipped"] = opt_state.in_a_row
            params, average = jax.tree.map(
                lambda old, new: jnp.where(opt_state.in_a_row > 0, old, new),
                (state.params, state.ema),
                (params, average),
            )
        return State(state.step + 1, params, opt_state, average, state.key), {"loss": loss, **metrics}

    def indexed_step(state, data, index):
        return step(state, jax.tree.map(lambda x: x[index], data))

    def over_seeds(function, in_axes: Any = 0):
        return jax.vmap(function, in_axes) if several else function

    def chunk(state, data, indices, first, last):
        one = over_seeds(indexed_step, in_axes=(0, None, 0))
        return _steps(lambda s, index: one(s, data, index), state, indices, first, last)

    def stream(state, batches, first, last):
        return _steps(over_seeds(step), state, batches, first, last)

    def gather(tree, indices):
        check_splits(indices.shape[-1])

        def one(x):
            rows = lambda place: x[
                indices[place[: indices.ndim]]
            ]  # never all of x: it may be larger than memory
            return jax.make_array_from_callback((*indices.shape, *x.shape[1:]), streamed, rows)

        return jax.tree.map(one, tree)

    jitted_chunk = jax.jit(chunk, donate_argnums=0, out_shardings=replicated)
    jitted_stream = jax.jit(stream, donate_argnums=0, out_shardings=replicated)

    def run_chunk(state, data, indices, first=0, last=None):
        last = len(indices) if last is None else last
        return jitted_chunk(state, data, indices, np.int32(first), np.int32(last))

    def run_stream(state, batches, first=0, last=None):
        last = len(jax.tree.leaves(batches)[0]) if last is None else last
        return jitted_stream(state, batches, np.int32(first), np.int32(last))

    jitted_create = jax.jit(over_seeds(create), out_shardings=replicated)
    values = np.asarray(seeds, np.uint32)
    values = values if several else values[0]

    def start(params=None):
        if params is not None:
            params = jax.tree.map(np.asarray, params)
            own = jax.eval_shape(jitted_create, values, None).params
            if different := trees.first_difference(trees.arrays(params), trees.arrays(own)):
                raise ValueError(f"the parameters to start from are of another model: {different}")
        return jitted_create(values, params)

    return Engine(
        seeds,
        variables,
        start,
        run_chunk,
        run_stream,
        lambda tree: parallel.replicate(tree, replicated),
        gather,
        lambda state: state.params if ema is None else joined(state.ema, parted(state.params)[1]),
        jax.jit(_largest),
    )
