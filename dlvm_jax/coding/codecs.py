"""Codecs: a push and a pop that undo each other, for densities of levels.

Networks are called with batches of one fixed shape, by one program for both directions: other shapes round otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dlvm_jax.coding.stack import frequencies
from dlvm_jax.models.tables import Tables, TableStepper

__all__ = ["Codec", "in_batches", "levels_codec", "padded", "stepwise", "through_codes"]


class Codec(NamedTuple):
    """How examples go on a stack and come off it.

    push: (stack, x [n, *event], given=None);  pop: (stack, n, given=None) -> x [n, *event], float32
    takes: how many bits the push of an example may take from the stack before it puts its own there
    """

    push: Callable
    pop: Callable
    takes: int = 0


def padded(x: Any, batch: int) -> np.ndarray:
    """Examples with zeros after them, `batch` in all."""
    x = np.asarray(x, np.float32)
    return np.concatenate([x, np.zeros((batch - len(x), *x.shape[1:]), np.float32)])


def stepwise(conditionals: Callable, steps: Sequence[Any], event_shape: Sequence[int]) -> Codec:
    """The codec of levels whose probabilities are found step by step.

    conditionals: (x [n, *event], given, known) -> log-probabilities [n, elements, L] of one step after the other, from x in the
                  steps before; unless x is `known`, each step is filled in before the next one is asked for
    steps:        indices of the flattened event, those of each step
    """

    def table(log_probs):
        return frequencies(log_probs).reshape(-1, log_probs.shape[-1])

    def push(stack, x, given=None):
        flat = np.reshape(x, (len(x), -1))
        for step, log_probs in reversed(list(zip(steps, conditionals(x, given, True), strict=False))):
            stack.push(flat[:, step].ravel(), table(log_probs))

    def pop(stack, n, given=None):
        x = np.zeros((n, *event_shape), np.float32)
        for step, log_probs in zip(steps, conditionals(x, given, False), strict=False):
            x.reshape(n, -1)[:, step] = stack.pop(table(log_probs)).reshape(n, -1)
        return x

    return Codec(push, pop)


def levels_codec(tables: Tables, params: Any, event_shape: Sequence[int], batch: int) -> Codec:
    """The codec of an exact density of levels by its tables, step by step.

    With a stepper push and pop are alike: they go through the steps, and nothing before a step is computed twice.  Without one a
    push is one pass of the network, and a pop one for each step; where all elements are independent that is one.
    """
    steps = [np.array(step) for step in tables.steps]
    if tables.stepper:
        return stepwise(_by_stepper(tables.stepper, steps, params, batch), steps, event_shape)
    return stepwise(_by_passes(tables, steps, params, batch), steps, event_shape)


def _by_passes(tables: Tables, steps: Sequence[np.ndarray], params: Any, batch: int) -> Callable:
    log_probs = jax.jit(tables.log_probs)

    def conditionals(x, given, known):
        context = None if given is None else padded(given, batch)
        found = None
        for step in steps:
            if found is None or not known:
                found = np.asarray(log_probs(params, padded(x, batch), context))[: len(x)]
            yield found[:, step]

    return conditionals


def _by_stepper(stepper: TableStepper, steps: Sequence[np.ndarray], params: Any, batch: int) -> Callable:
    """From what is kept of the steps before, which alone are shown: so both directions compute the same."""
    start, at = jax.jit(stepper.start), jax.jit(stepper.step, donate_argnums=1)

    def conditionals(x, given, known):
        context = None if given is None else padded(given, batch)
        flat, seen = np.reshape(x, (len(x), -1)), np.zeros((batch, *np.shape(x)[1:]), np.float32)
        kept = start(params, seen, context)
        for number, step in enumerate(steps):
            found, kept = at(params, kept, seen, number)
            yield np.asarray(found)[: len(x)]
            seen.reshape(batch, -1)[: len(x), step] = flat[:, step]

    return conditionals


def through_codes(codes: Callable, prior: Codec, likelihood: Codec, batch: int) -> Codec:
    """That of examples whose codes are sure, a function of them: the codes by their prior, examples by what is left of them."""

    def push(stack, x, given=None):
        index = np.asarray(codes(padded(x, batch)))[: len(x)]
        likelihood.push(stack, x, index)
        prior.push(stack, index)

    def pop(stack, n, given=None):
        return likelihood.pop(stack, n, prior.pop(stack, n))

    return Codec(push, pop)


def in_batches(codec: Codec, batch: int) -> Codec:
    """The same of any number of examples, `batch` at once."""
    starts = lambda n: range(0, n, batch)

    def push(stack, x, given=None):
        for start in reversed(starts(len(x))):
            codec.push(stack, x[start : start + batch])

    def pop(stack, n, given=None):
        return np.concatenate([codec.pop(stack, min(batch, n - start)) for start in starts(n)])

    return Codec(push, pop)
