"""Validation between chunks of training: the objective's own metrics on held-out data, with fixed randomness."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.models.objectives import unpack

__all__ = ["validator"]


def validator(
    objective: Callable,
    data: Any,
    *,
    seeds: Sequence[int] = (0,),
    batch_size: int = 500,
    key: jax.Array | None = None,
) -> Callable[[Any], dict[str, Any]]:
    """`validate(params) -> {"score", ...}` for `loop.run`: means of the objective's metrics over all of `data`.

    The score is minus the metric "bound" where there is one (the beta = 1 bound, whatever is trained), else the loss, averaged
    over seeds.  The same draws are used each time, so scores of different evaluations are comparable.

    objective:  (params, key, batch) -> (loss, metrics); the metric "variables", which is for training, is left out
    data:       arrays [N, ...] of the host, already transformed
    seeds:      those of training; of several the parameters have a leading axis, and each metric is a list
    batch_size: examples of a batch; a last batch of one example is joined to the one before
    key:        of the draws, the same for all seeds

    Raises ValueError for data without examples.
    """
    count = len(jax.tree.leaves(data)[0])
    if not count:
        raise ValueError(
            "there are no examples to validate on; give a data set that holds some out, or no validator"
        )
    starts = list(range(0, count, min(batch_size, count)))
    if count % batch_size == 1 < count:  # total correlation and MMD are of two examples or more
        starts.pop()
    blocks = list(itertools.pairwise([*starts, count]))
    key = jax.random.key(2**31) if key is None else key  # no seed of a run comes near it by chance

    def metrics_of(params, number, batch):
        loss, metrics = objective(params, jax.random.fold_in(key, number), batch)
        return {"loss": loss, **{name: value for name, value in metrics.items() if name != "variables"}}

    def put(block):
        x, context = unpack(block)  # a context may be of labels, which stay integers
        x = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype == np.uint8 else None), x)
        return x if context is None else (x, jax.tree.map(jnp.asarray, context))

    if len(seeds) > 1:
        metrics_of = jax.vmap(metrics_of, in_axes=(0, None, None))
    metrics_of = jax.jit(metrics_of)

    def validate(params):
        totals = {}
        for number, (start, end) in enumerate(blocks):
            batch = put(jax.tree.map(lambda x, s=start, e=end: x[s:e], data))
            share = (end - start) / count
            for name, value in metrics_of(params, number, batch).items():
                totals[name] = totals.get(name, 0.0) + share * np.asarray(value, np.float64)
        score = -totals["bound"] if "bound" in totals else totals["loss"]
        return {"score": float(np.mean(score)), **{name: value.tolist() for name, value in totals.items()}}

    return validate
