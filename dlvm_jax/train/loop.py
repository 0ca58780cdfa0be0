"""Training from start or checkpoint to the end: parts of about a second, and between some of them validation, log, checkpoint."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dlvm_jax.progress import Progress
from dlvm_jax.train import order, parallel
from dlvm_jax.train.checkpoint import Checkpoints
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.engine import Engine, State
from dlvm_jax.train.run import RunFolder
from dlvm_jax.train.stopping import Interrupted, Stopping
from dlvm_jax.train.stream import Pace, feed

__all__ = ["Interrupted", "NonFiniteError", "run"]


class NonFiniteError(FloatingPointError):
    """A metric became NaN or infinite, or too many updates in a row were skipped.

    The message names the step, the reason and the last good checkpoint.
    """


def _stop(step, why, checkpoints, advice):
    if checkpoints is not None:
        checkpoints.wait()  # one may be on its way to the disk
    saved = checkpoints.steps() if checkpoints is not None else []
    last = (
        f"the last good checkpoint is that of step {saved[-1]}" if saved else "no checkpoint was written yet"
    )
    raise NonFiniteError(f"training stopped at step {step}: {why}; {last}; {advice}")


def _guard(metrics, start, checkpoints):
    """Raise at the first step whose metrics {name: [steps, ...]} are not all finite; skipped ones may be anything."""
    skipped = metrics["skipped"] > 0 if "skipped" in metrics else False
    finite = {name: np.isfinite(values) | skipped for name, values in metrics.items()}
    bad = {name: ~flags.reshape(len(flags), -1).all(1) for name, flags in finite.items()}
    if not any(flags.any() for flags in bad.values()):
        return
    first = min(int(flags.argmax()) for flags in bad.values() if flags.any())
    names = [name for name, flags in bad.items() if flags[first]]
    values = ", ".join(f"{name} = {np.asarray(metrics[name][first])}" for name in names)
    advice = "check the data, lower the learning rate or clip gradients"
    _stop(start + first, values, checkpoints, advice)


def _guard_skips(metrics, start, checkpoints, config):
    """Raise at the first step at which more updates in a row were skipped than may be, or all of a short training."""
    if "skipped" not in metrics:
        return
    most = min(config.skip_at_most, config.steps - 1)
    too_many = (metrics["skipped"] > most).reshape(len(metrics["skipped"]), -1).any(1)
    if too_many.any():
        why = f"{most + 1} updates in a row had gradients of a norm above {config.skip}, or not finite"
        advice = "raise skip, lower the learning rate or check the data"
        _stop(start + int(too_many.argmax()), why, checkpoints, advice)


def _stopped_early(history, config, patience_from):
    scores = [
        line["valid_score"] for line in history if "valid_score" in line and line["step"] >= patience_from
    ]
    patience = config.patience
    return (
        patience is not None and len(scores) > patience and min(scores[-patience:]) >= min(scores[:-patience])
    )


def _advance(steps, state, start, end, found, checkpoints, config, bar, stopping):
    """Train from step `start` to `end`, or to where a stop is asked for: the state and the step there.

    found: the metrics {name: [steps, ...]} of each part since the last evaluation, to which those of this training are added
    """
    step = start
    while step < end:
        begin = time.monotonic()
        state, metrics = next(steps)(state)
        found.append(metrics)
        _guard(metrics, step, checkpoints)
        _guard_skips(metrics, step, checkpoints, config)
        count = len(metrics["loss"])
        step += count
        stopping.step = step
        bar.advance(count)
        stopping.took(time.monotonic() - begin)
        if step < end and stopping.agreed():
            break
    return state, step


def _joined(found):
    """The metrics of several parts as one: {name: [steps, ...]}."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _logged(metrics):
    """The line of the log: means over the steps, of those whose update was taken (NaN without any), and how many were skipped."""
    if "skipped" not in metrics:
        return {name: np.mean(values, axis=0).tolist() for name, values in metrics.items()}
    taken = metrics["skipped"] == 0
    count = np.where(taken.any(0), taken.sum(0), np.nan)
    line = {name: (np.where(taken, values, 0).sum(0) / count).tolist() for name, values in metrics.items()}
    return line | {"skipped": (~taken).sum(0).tolist()}


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
    NonFiniteError (naming step and metric, or the skips) and Interrupted (within seconds, after saving) on SIGTERM or SIGINT.
    """
    _check(engine, config, data, state, validate)
    last, eval_every = config.extent()
    step = int(np.max(state.step))
    history = [line for line in folder.metrics() if line["step"] <= step]
    folder.rewind(step)
    before, found = folder.seconds(), []
    if (part := folder.part(step)) is not None:  # the run was stopped between two evaluations
        before, metrics = part
        found.append(metrics)
    started = time.monotonic()
    bar = Progress("train", last, initial=step, shown=progress and parallel.is_primary())
    with bar, Stopping(step) as stopping, contextlib.ExitStack() as leaving:
        if checkpoints is not None:
            leaving.callback(checkpoints.wait)  # an error must not lose the checkpoint on its way to the disk
        steps = leaving.enter_context(contextlib.closing(feed(engine, config, data, step, Pace(bar))))

        def save(score=None):
            if checkpoints is not None:
                checkpoints.save(step, state, score)  # after the one before is on disk
                stopping.saved, stopping.writing = stopping.writing, step

        while step < last and not _stopped_early(history, config, patience_from):
            end = min(step - step % eval_every + eval_every, last)
            state, step = _advance(steps, state, step, end, found, checkpoints, config, bar, stopping)
            metrics = _joined(found)
            if step < end:
                folder.keep_part(step, metrics, before + time.monotonic() - started)
                save()
                raise Interrupted(stopping.agreed() or 0, f"step {step}")
            line = _logged(metrics)
            found.clear()
            after = {"largest parameter": engine.largest(state)}
            if validate is not None:
                with Progress("validating", shown=bar.shown):
                    valid = {f"valid_{k}": v for k, v in validate(engine.eval_params(state)).items()}
                line, after = line | valid, after | valid
            _guard({name: np.asarray(value)[None] for name, value in after.items()}, step, checkpoints)
            history.append({"step": step, **line})
            folder.log(step, line, before + time.monotonic() - started)
            save(line.get("valid_score"))
            shown = "valid_bound" if "valid_bound" in line else "bound" if "bound" in line else "loss"
            bar.note(f"{shown} {np.mean(line[shown]):.2f}")
            if number := stopping.agreed():
                raise Interrupted(number, f"step {step}")
    if number := stopping.agreed():  # as the last checkpoint was written
        raise Interrupted(number, f"step {step}")
    return state
