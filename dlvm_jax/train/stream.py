"""How minibatches reach the devices: from data that live there, or read by the host while the devices work.

The order of the examples is known ahead (see `order`), so a thread reads the next piece of training, from a numpy array or a
memory-mapped file, while the devices work on the one before.  A plain file and a thread, not Grain: rows of equal size need no
decoding, and for an epoch of 600 minibatches in memory Grain takes 1.6 s and indexing 0.01 s.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from dlvm_jax.progress import Progress
from dlvm_jax.train import order, parallel
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.engine import Engine

__all__ = ["Pace", "feed", "fits_on_device", "pieces"]

PIECE = 64 * 2**20  # bytes of minibatches that are read at once; at most three such pieces are in memory
SMALL = 2 * 2**30  # bytes of data that are put on a device whose memory is not known


SECONDS, GROWTH = 1.0, 10  # that the steps taken at once should last; by what factor they become more


class Pace:
    """How many steps are taken at once: as many as a second holds, so that progress is seen and a stop acts soon.

    bar: where compiling, which happens once for each program, is named
    """

    def __init__(self, bar: Progress):
        self.steps, self._bar, self._compiled = 1, bar, set()

    def take(self, run: Callable, state: Any, first: int, last: int, program: int) -> tuple[Any, Any]:
        """The state after the steps from `first` to before `last`, and their metrics; `program` tells apart what is compiled."""
        if program not in self._compiled:
            self._compiled.add(program)
            with self._bar.aside("compiling"):
                return _taken(run, state, first, last)
        begin = time.monotonic()
        found = _taken(run, state, first, last)
        (seconds,) = parallel.largest(time.monotonic() - begin)
        fitting = int((last - first) * SECONDS / max(seconds, 1e-6))
        self.steps = max(1, min(fitting, GROWTH * (last - first)))
        return found


def _taken(run, state, first, last):
    state, metrics = run(state, first, last)
    return state, jax.tree.map(lambda x: x[first:last], jax.device_get(metrics))


def fits_on_device(data: Any) -> bool:
    """Whether arrays take at most a quarter of a device's memory, or 2 GiB where that is not known (as on CPU)."""
    known = jax.local_devices()[0].memory_stats() or {}
    return sum(x.nbytes for x in jax.tree.leaves(data)) <= known.get("bytes_limit", 4 * SMALL) / 4


def pieces(start: int, end: int, eval_every: int, longest: int | None = None) -> Iterator[tuple[int, int]]:
    """The first step and the length of each piece of the steps start..end-1.

    No piece goes past an evaluation.  Between two evaluations they are as few and as equal as `longest` allows.
    """
    while start < end:
        stop = min(start - start % eval_every + eval_every, end)
        left = 1 if longest is None else -(-(stop - start) // longest)
        while start < stop:
            length = -(-(stop - start) // left)
            yield start, length
            start, left = start + length, left - 1


def _one_ahead(function: Callable, items: Iterable) -> Iterator:
    """`function(item)` for each item; while the caller uses one, a thread computes the next."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        ready = None
        for item in items:
            ready, before = thread.submit(function, item), ready
            if before is not None:
                yield before.result()
        if ready is not None:
            yield ready.result()


def feed(
    engine: Engine, config: TrainConfig, data: Any, start: int, pace: Pace | None = None
) -> Generator[Callable, None, None]:
    """Training from step `start` to the end, in parts, each a function (state) -> (state, metrics of its steps).

    data: arrays of the host, examples on the leading axis.  They are put on the devices, or read from there where they are as
        `config.on_device` says
    pace: how many steps a part has; without one, all of a piece

    The results are the same, bit for bit, whatever the parts.
    """
    leaves = jax.tree.leaves(data)
    end, eval_every = config.extent()

    def indices(piece):
        first, count = piece
        rows = [
            order.minibatches(len(leaves[0]), config.batch_size, seed, first, count, config.shuffle)
            for seed in engine.seeds
        ]
        return rows[0] if len(rows) == 1 else np.stack(rows, axis=1)

    if fits_on_device(data) if config.on_device is None else config.on_device:
        placed = engine.put(data)
        for rows in map(indices, pieces(start, end, eval_every)):
            run = lambda state, *part, rows=rows: engine.chunk(state, placed, rows, *part)
            yield from _parts(run, len(rows), pace)
        return
    step_bytes = len(engine.seeds) * config.batch_size * sum(x.nbytes // len(x) for x in leaves)
    short = pieces(start, end, eval_every, max(1, PIECE // max(1, step_bytes)))
    for batches in _one_ahead(lambda piece: engine.gather(data, indices(piece)), short):
        length = len(jax.tree.leaves(batches)[0])
        run = lambda state, *part, batches=batches: engine.stream(state, batches, *part)
        yield from _parts(run, length, pace)


def _parts(run: Callable, length: int, pace: Pace | None) -> Iterator[Callable]:
    """The steps of a piece as functions (state) -> (state, metrics), each of as many as the pace says."""
    if pace is None:
        yield lambda state: _taken(run, state, 0, length)
        return
    first = 0
    while first < length:
        last = min(length, first + pace.steps)
        yield lambda state, first=first, last=last: pace.take(run, state, first, last, length)
        first = last
