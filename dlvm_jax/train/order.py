"""Which examples make up which minibatch: a function of the seed and the step alone, so a resumed run goes on exactly."""

from functools import lru_cache

import numpy as np

__all__ = ["minibatches", "steps_per_epoch"]


def steps_per_epoch(examples, batch_size):
    """Whole minibatches in an epoch (when shuffled, the rest comes round in other epochs); ValueError if there is not one."""
    if not 1 <= batch_size <= examples:
        raise ValueError(
            f"the batch size lies between 1 and the {examples} training examples, got {batch_size}"
        )
    return examples // batch_size


@lru_cache(maxsize=64)
def _epoch(examples, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)


def minibatches(examples, batch_size, seed, start, steps, shuffle=True):
    """Indices of the minibatches of steps start..start+steps-1, [steps, batch_size]: a fresh permutation each epoch.

    Without `shuffle` the examples come in their own order in every epoch, and the rest never comes.
    """
    per_epoch = steps_per_epoch(examples, batch_size)
    if not shuffle:
        first = np.arange(start, start + steps) % per_epoch * batch_size
        return (first[:, None] + np.arange(batch_size)).astype(np.int32)
    rows = []
    for step in range(start, start + steps):
        epoch, position = divmod(step, per_epoch)
        rows.append(_epoch(examples, seed, epoch)[position * batch_size : (position + 1) * batch_size])
    return np.stack(rows)
