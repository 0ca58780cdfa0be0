"""Checkpoints: the only file that knows Orbax.

A checkpoint is a folder `<step>` written by Orbax (asynchronously, renamed into place when complete) and a note
`<step>.json`.  The note has the run's configuration, a validation score, type and shape of every array, a digest of the arrays
and one of the note itself.  So a truncated or bit-flipped checkpoint is noticed and the one before it is used, and one of another
model is not taken for a damaged one.
"""

import hashlib
import json
import logging
import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from dlvm_jax.digest import digest
from dlvm_jax.train import parallel, trees

__all__ = ["CheckpointError", "Checkpoints", "differences"]

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax prints each error many times, and raises it too


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message says what to do."""


def _raw(tree):
    """The tree as it is stored: random keys as plain integers, and None for an array of size zero, which Orbax refuses."""

    def raw(x):
        if not x.size:
            return None
        return jax.random.key_data(x) if _is_key(x) else x

    return jax.tree.map(raw, tree)


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def seal(note: Mapping[str, Any]) -> str:
    """SHA-256 over the contents of a note, its own "seal" left out."""
    content = {name: value for name, value in note.items() if name != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The settings in which two flat configurations differ, as text; None is the same as a setting that is not there.

    So a run of an older version goes on: a new setting is None there.
    """
    names = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
    return ", ".join(f"{k} {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in names)


def _why(error: Exception) -> str:
    """The reason of a failed write, on one line; Orbax's own says much before it."""
    text = str(error) or type(error).__name__
    known = [reason for reason in ("No space left on device", "Disk quota exceeded") if reason in text]
    return known[0] if known else text.splitlines()[0][:200]


class Checkpoints:
    """The checkpoints of one run: the last `keep` and the best by score (lowest), none of them ever half-written.

    folder: where they live, created
    config: the run's settings, which a checkpoint must share to be restored
    keep:   how many of the last

    Raises CheckpointError where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], keep: int = 2):
        self.folder, self.keep = Path(folder).absolute(), keep
        self.config = json.loads(json.dumps(config, default=str))  # as a note gives it back
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot write to {self.folder}: {error.strerror}; choose another folder"
            ) from error
        self._checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def _notes(self):
        """Readable notes of complete checkpoints by step, oldest first."""
        notes = {}
        for path in self.folder.glob("*.json"):
            if not path.stem.isdigit() or not (self.folder / path.stem).is_dir():
                continue
            try:
                note = json.loads(path.read_text())
                intact = note["seal"] == seal(note)
            except (ValueError, OSError, KeyError, TypeError):
                intact = False
            if intact:
                notes[int(path.stem)] = note
            else:
                self._warn(int(path.stem), "its note cannot be read")
        return dict(sorted(notes.items()))

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first."""
        return list(self._notes())

    def best_step(self) -> int | None:
        """Step of the checkpoint with the lowest score, or of the last one where none has a score; None without any."""
        notes = self._notes()
        scored = {
            step: note["score"]
            for step, note in notes.items()
            if note["score"] is not None and math.isfinite(note["score"])
        }
        return min(scored, key=lambda step: scored[step]) if scored else max(notes, default=None)

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Write a checkpoint in the background; waits for the one before, then drops those no longer kept.

        Raises CheckpointError when the disk is full or the folder cannot be written; earlier checkpoints stay as they are.
        """
        self.wait()
        raw = _raw(state)
        note = {"step": step, "score": score, "config": self.config}
        note |= {"arrays": trees.arrays(raw), "digest": digest(raw)}
        note["seal"] = seal(note)
        try:
            if parallel.is_primary():
                self._drop_old()
                shutil.rmtree(self.folder / str(step), ignore_errors=True)
                temporary = self.folder / f"{step}.json.part"
                temporary.write_text(json.dumps(note))
                temporary.replace(self.folder / f"{step}.json")
            self._checkpointer.save(self.folder / str(step), args=ocp.args.StandardSave(raw), force=True)
        except Exception as error:
            raise self._write_error(step, error) from error

    def wait(self) -> None:
        """Wait until the last `save` is on disk; raises CheckpointError if it failed."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise self._write_error("in progress", error) from error

    def restore(self, template: Any, step: int | None = None) -> tuple[int, Any] | None:
        """The newest intact checkpoint (or that of `step`, if it is intact) as `(step, state)`; None if there is none.

        template: a state of the same structure

        A damaged checkpoint is passed over with a warning.  Raises CheckpointError for one of other settings or of another
        model, naming what differs, and where all are damaged.
        """
        notes = self._notes()
        order = sorted(notes, reverse=True)
        if step is not None:
            order = [step] * (step in notes) + [s for s in order if s != step]
        raw = _raw(template)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), raw)
        for candidate in order:
            note = notes[candidate]
            self._check_same(candidate, note, trees.arrays(raw))
            try:
                restored = self._checkpointer.restore(
                    self.folder / str(candidate), args=ocp.args.StandardRestore(abstract)
                )
            except Exception as error:
                self._warn(candidate, f"{type(error).__name__} while reading it")
                continue
            if digest(restored) != note["digest"]:
                self._warn(candidate, "its contents do not match their digest")
                continue
            return candidate, self._unraw(restored, template)
        if notes:
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged; start again in another folder"
            )
        return None

    def close(self) -> None:
        """Wait for the last save and release Orbax's threads."""
        self.wait()
        self._checkpointer.close()

    def _check_same(self, step, note, arrays):
        """Raise CheckpointError for a checkpoint of other settings, or of a state of other arrays."""
        where = f"the checkpoint {self.folder / str(step)}"
        if different := differences(note["config"], self.config):
            raise CheckpointError(
                f"{where} is of another configuration ({different}); use those settings or another folder"
            )
        different = trees.first_difference(
            note.get("arrays", arrays), arrays
        )  # notes of old versions have none
        if different and "float64" in different and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            raise CheckpointError(
                f"{where} is in double precision; start Python with the environment variable JAX_ENABLE_X64=1 to read it"
            )
        if different:
            raise CheckpointError(
                f"{where} is of another model or training ({different}); use the settings that it was written with "
                "(widths, dtype, optimiser, moving average, seeds), or another folder"
            )

    def _unraw(self, restored, template):
        def back(like, x):
            if x is None:
                return like
            return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like)) if _is_key(like) else x

        return jax.tree.map(back, template, restored)

    def _drop_old(self):
        notes = self._notes()
        kept = {*sorted(notes)[-self.keep :], self.best_step()}
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a save that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        for step in set(notes) - kept:
            (self.folder / f"{step}.json").unlink()  # first the note: a folder without one is never restored
            shutil.rmtree(self.folder / str(step), ignore_errors=True)

    def _warn(self, step, why):
        warnings.warn(
            f"checkpoint {self.folder / str(step)} is damaged ({why}); trying the one before", stacklevel=3
        )

    def _write_error(self, step, error):
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.folder} ({_why(error)}); "
            f"free disk space or choose another folder, then resume: complete checkpoints are {self.steps()}"
        )
