"""Which examples make up which minibatch: a function of the seed and the step alone, so a resumed run goes on exactly."""

from functools import lru_cache

import numpy as np

__all__ = ["minibatches", "steps_per_epoch"]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Whole minibatches in an epoch; ValueError if there is not one.  The rest is left out (when shuffled, others each epoch)."""
    if not 1 <= batch_size <= examples:
        raise ValueError(
            f"the batch size lies between 1 and the {examples} training examples, got {batch_size}"
        )
    return examples // batch_size


@lru_cache(maxsize=64)
def _epoch(examples, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)


def minibatches(
    examples: int, batch_size: int, seed: int, start: int, steps: int, shuffle: bool = True
) -> np.ndarray:
    """Indices of the minibatches of steps start..start+steps-1, int32 [steps, batch_size]: a fresh permutation each epoch.

    Without `shuffle` the examples come in their own order in every epoch, and those that fill no minibatch never come.
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
