"""Minibatches read by the host: the same numbers as with data on the device, one piece ahead, in bounded memory."""

import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from dlvm_jax.progress import Progress
from dlvm_jax.train import engine, order, stream
from dlvm_jax.train.run import RunFolder
from tests.train.common import X, assert_same, build, fit, init, objective

ROOT = Path(__file__).parents[2]
LABELS = np.arange(64, dtype=np.int32)


def on_labels(params, key, batch, step=None):
    """Of examples and labels; the bound uses both and the step."""
    x, labels = batch
    loss, metrics = objective(params, key, x)
    return loss + 1e-4 * (labels * step).mean(), metrics


@pytest.mark.parametrize(
    "options, settings",
    [
        ({"ema": 0.9}, {}),
        ({"seeds": (3, 4, 5)}, {}),
        ({"accumulate": 2}, {"shuffle": False}),
    ],
)
def test_streamed_and_resident_training_are_equal_bit_for_bit(tmp_path, monkeypatch, options, settings):
    """From a memory-mapped file, in pieces of at most 3 steps between evaluations 10 steps apart."""
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    trainer = engine.build(on_labels, init, optax.adam(0.01), **options)
    step_bytes = len(trainer.seeds) * 8 * (X[0].nbytes + LABELS[0].nbytes)
    monkeypatch.setattr(stream, "PIECE", 3 * step_bytes)
    lengths = []

    def counted(state, batches, first, last):
        lengths.extend([len(batches[1])] * (first == 0))  # a piece may be trained on in several parts
        return trainer.stream(state, batches, first, last)

    states = [
        fit(
            tmp_path / str(on_device),
            steps=25,
            trainer=trainer._replace(stream=counted),
            data=(mapped, LABELS),
            on_device=on_device,
            **settings,
        )[1]
        for on_device in (True, False)
    ]
    assert_same(*states)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("True", "False")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 3
    assert lengths == [3, 3, 2, 2] * 2 + [3, 2]


def test_a_streamed_run_resumes_exactly_and_stops_early(tmp_path):
    _, whole, _ = fit(tmp_path / "whole")
    fit(tmp_path / "parts", steps=30, config={"steps": 60}, on_device=False)
    _, parts, _ = fit(tmp_path / "parts", resume=True, on_device=False)
    assert_same(whole, parts)
    options = {"validate": lambda params: {"score": 1.0}, "patience": 3, "on_device": False}
    assert int(fit(tmp_path / "early", **options)[1].step) == 40
    assert not [
        thread for thread in threading.enumerate() if "read-ahead" in thread.name
    ]  # Orbax has pools too


def test_pieces_meet_the_evaluations_and_are_as_few_and_equal_as_they_can():
    assert list(stream.pieces(0, 25, 10)) == [(0, 10), (10, 10), (20, 5)]
    assert list(stream.pieces(7, 25, 10)) == [(7, 3), (10, 10), (20, 5)]
    for start, end, eval_every, longest in ((0, 1000, 1000, 300), (5, 97, 13, 4), (0, 7, 100, 1)):
        found = list(stream.pieces(start, end, eval_every, longest))
        ends = [first + count for first, count in found]
        assert [start, *ends] == [*(first for first, _ in found), end]
        stops = sorted({end, *range(start - start % eval_every + eval_every, end, eval_every)})
        assert set(stops) <= set(ends)
        for low, high in zip([start, *stops[:-1]], stops, strict=True):
            lengths = [count for first, count in found if low <= first < high]
            assert len(lengths) == -(-(high - low) // longest) and max(lengths) - min(lengths) <= 1


def test_the_next_piece_is_read_while_this_one_is_used():
    read = [threading.Event() for _ in range(3)]

    def function(item):
        read[item].set()
        return 10 * item

    found = stream._one_ahead(function, range(3))
    assert next(found) == 0
    assert read[1].wait(10) and not read[2].is_set()  # one ahead, not two
    assert list(found) == [10, 20]
    assert list(stream._one_ahead(function, [])) == []


def test_an_error_of_the_reading_thread_ends_the_run(tmp_path):
    def broken(tree, indices):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fit(tmp_path, trainer=build()._replace(gather=broken), on_device=False)


@pytest.mark.parametrize("small, resident", [(X.nbytes, True), (X.nbytes - 1, False)])
def test_small_data_live_on_the_device(tmp_path, monkeypatch, small, resident):
    monkeypatch.setattr(stream, "SMALL", small)
    assert stream.fits_on_device(X) == stream.fits_on_device((X[:32], X[32:])) == resident
    used = set()

    def noted(name, function):
        return lambda *arguments: used.add(name) or function(*arguments)

    trainer = build()
    trainer = trainer._replace(chunk=noted("chunk", trainer.chunk), stream=noted("stream", trainer.stream))
    fit(tmp_path, steps=2, trainer=trainer)
    assert used == {"chunk" if resident else "stream"}


def test_a_device_of_known_memory_takes_a_quarter_of_it(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 4 * X.nbytes}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert stream.fits_on_device(X) and not stream.fits_on_device((X, LABELS))


def test_gathered_minibatches_are_the_rows_of_the_order():
    rows = np.stack([order.minibatches(64, 8, seed, 0, 5) for seed in (0, 1)], axis=1)
    x, labels = build(seeds=(0, 1)).gather((X, LABELS), rows)
    assert x.shape == (5, 2, 8, 5)
    np.testing.assert_array_equal(x, X[rows])
    np.testing.assert_array_equal(labels, rows)
    with pytest.raises(ValueError, match="batch of 8 does not split"):
        build(accumulate=3).gather(X, rows)


LIMITED = """
import os, resource, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each core has threads, whose stacks count
limit = 2**30
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
import json
import jax, jax.numpy as jnp, numpy as np, optax
from dlvm_jax.train import engine, loop
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.run import RunFolder
path, width = sys.argv[1], 2**15
with open(path, "wb") as file:
    file.truncate(3 * limit)  # a file with a hole takes no room on the disk
x = np.memmap(path, np.uint8, "r").reshape(-1, width)
try:
    np.array(x)
    print("the limit does not limit")
except MemoryError:
    pass
def objective(params, key, batch, step):
    return jnp.square(batch @ params["w"] + params["b"] - 1).mean(), {}
init = lambda key: {"w": jnp.zeros(width), "b": jnp.zeros(())}
trainer = engine.build(objective, init, optax.adam(0.01))
steps = len(x) // 64
config = TrainConfig(steps=steps, batch_size=64, eval_every=steps // 4)
loop.run(trainer, config, x, trainer.init(), folder=RunFolder(sys.argv[2]), progress=False)
print(json.dumps({"gigabytes": x.nbytes / limit, "steps": steps}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as on Linux")
def test_data_three_times_the_memory_limit_train(tmp_path):
    """RLIMIT_DATA limits what a process allocates, and the process shows first that the data do not fit into it.

    RLIMIT_AS would count the addresses of the mapped file, and the peak of resident memory its pages in the cache of
    the system, which it takes back when memory is short: neither is memory that the process needs.
    """
    worker = [sys.executable, "-c", LIMITED, tmp_path / "x", tmp_path / "run"]
    done = subprocess.run(worker, cwd=ROOT, capture_output=True, text=True)
    (tmp_path / "x").unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"gigabytes": 3.0, "steps": 1536}
    losses = [line["loss"] for line in RunFolder(tmp_path / "run").metrics()]
    assert len(losses) == 4 and losses[-1] < 1e-4 < losses[0]


def test_a_part_lasts_about_a_second_whatever_a_step_costs(monkeypatch):
    """Of steps of 0.3 ms, 40 ms and 5 s, by a clock of their own; compiling does not count, and happens once."""
    for cost, most in ((3e-4, 2.0), (0.04, 2.0), (5.0, 5.0)):
        clock, bar = [0.0], Progress("train", shown=False)
        monkeypatch.setattr(stream.time, "monotonic", lambda clock=clock: clock[0])
        pace, seconds, done = stream.Pace(bar), [], []

        def run(state, first, last, clock=clock, cost=cost, done=done):
            clock[0] += cost * (last - first) + 60 * (not done)  # which are those of compiling
            done.append(last - first)
            return state + last - first, {"loss": np.arange(100_000)}

        state = 0
        for part in itertools.islice(stream._parts(run, 100_000, pace), 10):
            before = clock[0]
            state, metrics = part(state)
            seconds.append(clock[0] - before)
            np.testing.assert_array_equal(metrics["loss"], np.arange(state - done[-1], state))
        assert max(seconds[1:]) <= most and state == sum(done)
        assert cost > 1 or np.median(seconds[5:]) > 0.5
        assert done[:3] == [1, 1, min(10, max(1, int(1 / cost)))]
