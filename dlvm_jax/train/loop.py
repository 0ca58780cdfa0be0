"""Training from start or checkpoint to the end: chunks of steps, and between them validation, logging, checkpoint, guard."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from dlvm_jax.train import order, parallel
from dlvm_jax.train.checkpoint import Checkpoints
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.engine import Engine, State
from dlvm_jax.train.run import RunFolder
from dlvm_jax.train.stream import feed

__all__ = ["Interrupted", "NonFiniteError", "run"]


class NonFiniteError(FloatingPointError):
    """A metric became NaN or infinite; the message names the step, the metric and the last good checkpoint."""


class Interrupted(BaseException):
    """The run was asked to stop; everything up to its last evaluation is saved.  `signum` is the signal.

    Like KeyboardInterrupt it is no Exception, so that nothing takes it for an error and goes on.
    """

    def __init__(self, signum: int, where: str):
        super().__init__(f"stopped by signal {signum} at {where}; resume to go on from there")
        self.signum = signum


def _guard(metrics, start, checkpoints):
    """Raise at the first step whose metrics {name: [steps, ...]} are not all finite."""
    bad = {name: ~np.isfinite(values).reshape(len(values), -1).all(1) for name, values in metrics.items()}
    if not any(flags.any() for flags in bad.values()):
        return
    first = min(int(flags.argmax()) for flags in bad.values() if flags.any())
    names = [name for name, flags in bad.items() if flags[first]]
    if checkpoints is not None:
        checkpoints.wait()  # one may be on its way to the disk
    saved = checkpoints.steps() if checkpoints is not None else []
    last = (
        f"the last good checkpoint is that of step {saved[-1]}" if saved else "no checkpoint was written yet"
    )
    values = ", ".join(f"{name} = {np.asarray(metrics[name][first])}" for name in names)
    raise NonFiniteError(
        f"training stopped at step {start + first}: {values}; {last}; check the data, lower the learning rate or clip gradients"
    )


def _stopped_early(history, config, patience_from):
    scores = [
        line["valid_score"] for line in history if "valid_score" in line and line["step"] >= patience_from
    ]
    patience = config.patience
    return (
        patience is not None and len(scores) > patience and min(scores[-patience:]) >= min(scores[:-patience])
    )


class _Signals:
    """Turns SIGTERM and SIGINT into a request to stop at the next evaluation; agreed between processes."""

    def __init__(self):
        self.received = None
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: leave signals alone
                return self
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def asked(self):
        """The signal that any process received, or None; all processes ask together."""
        received = self.received or 0
        if jax.process_count() > 1:
            received = int(multihost_utils.process_allgather(np.int32(received)).max())
        return received or None


def _advance(
    steps: Iterator[Callable], state: State, start: int, end: int, checkpoints: Checkpoints | None, bar: tqdm
) -> tuple[State, dict[str, np.ndarray]]:
    """The state at step `end`, and the metrics {name: [steps, ...]} on the way there."""
    found, step = [], start
    while step < end:
        state, metrics = next(steps)(state)
        found.append(jax.device_get(metrics))
        _guard(found[-1], step, checkpoints)
        count = len(found[-1]["loss"])
        step += count
        bar.update(count)
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _check(engine: Engine, config: TrainConfig, data: Any, state: State, validate: Callable | None) -> None:
    lengths = [len(leaf) for leaf in jax.tree.leaves(data)]
    if min(lengths) < max(lengths):
        raise ValueError(f"the arrays of the data must have one length, got {lengths}")
    order.steps_per_epoch(lengths[0], config.batch_size)
    if engine.seeds != tuple(config.seeds):
        raise ValueError(
            f"the engine is of seeds {engine.seeds}, the configuration of {config.seeds}; build both of the same"
        )
    if np.size(state.step) != len(config.seeds):
        raise ValueError(
            f"the state is of {np.size(state.step)} seed(s), the engine of {len(config.seeds)}; "
            "take a state of this engine"
        )
    if config.patience is not None and validate is None:
        raise ValueError(
            f"patience of {config.patience} evaluations needs validation; give validate, or no patience"
        )


def run(
    engine: Engine,
    config: TrainConfig,
    data: Any,
    state: State,
    *,
    folder: RunFolder,
    checkpoints: Checkpoints | None = None,
    validate: Callable | None = None,
    patience_from: int = 0,
    progress: bool = True,
) -> State:
    """Train until `config.steps`, from `state` (fresh, or restored); returns the last state.

    engine:        from `engine.build`
    config:        resolved (see `TrainConfig.resolved`)
    data:          arrays of the host, the examples on the leading axis
    folder:        for the log
    checkpoints:   None to keep none
    validate:      (parameters) -> {"score": a float, lower is better, and more} at each evaluation
    patience_from: the step from which evaluations count for the patience
    progress:      whether to draw a progress bar

    Raises ValueError for arrays of different lengths, a state of another number of seeds, and patience without validation,
    NonFiniteError (naming step and metric) and Interrupted (after saving) on SIGTERM or SIGINT.
    """
    _check(engine, config, data, state, validate)
    last, eval_every = config.extent()
    step = int(np.max(state.step))
    history = [line for line in folder.metrics() if line["step"] <= step]
    folder.rewind(step)
    before, started = folder.seconds(), time.monotonic()
    bar = tqdm(
        total=last,
        initial=step,
        unit="step",
        disable=not (progress and parallel.is_primary()),
        dynamic_ncols=True,
    )
    with bar, _Signals() as signals, contextlib.ExitStack() as leaving:
        if checkpoints is not None:
            leaving.callback(checkpoints.wait)  # an error must not lose the checkpoint on its way to the disk
        steps = leaving.enter_context(contextlib.closing(feed(engine, config, data, step)))
        while step < last and not _stopped_early(history, config, patience_from):
            end = min(step - step % eval_every + eval_every, last)
            state, metrics = _advance(steps, state, step, end, checkpoints, bar)
            step = end
            line = {name: np.mean(values, axis=0).tolist() for name, values in metrics.items()}
            after = {"largest parameter": engine.largest(state)}
            if validate is not None:
                valid = {f"valid_{k}": v for k, v in validate(engine.eval_params(state)).items()}
                line, after = line | valid, after | valid
            _guard({name: np.asarray(value)[None] for name, value in after.items()}, step, checkpoints)
            history.append({"step": step, **line})
            folder.log(step, line, before + time.monotonic() - started)
            if checkpoints is not None:
                checkpoints.save(step, state, line.get("valid_score"))
            shown = "valid_bound" if "valid_bound" in line else "bound" if "bound" in line else "loss"
            bar.set_postfix_str(f"{shown} {np.mean(line[shown]):.2f}")
            if number := signals.asked():
                raise Interrupted(int(number), f"step {step}")
    if number := signals.asked():  # as the last checkpoint was written
        raise Interrupted(int(number), f"step {step}")
    return state
