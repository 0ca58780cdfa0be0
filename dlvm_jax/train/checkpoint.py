"""Checkpoints: the only file that knows Orbax.

A checkpoint is a folder `<step>` written by Orbax (asynchronously, renamed into place when complete) and a note
`<step>.json` with the run's configuration, a validation score, a digest of every array and one of the note itself, so that a
truncated or bit-flipped checkpoint is noticed and the one before it is used.
"""

import hashlib
import json
import logging
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from dlvm_jax.train import parallel

__all__ = ["CheckpointError", "Checkpoints"]

logging.getLogger("absl").setLevel(logging.ERROR)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message says what to do."""


def _raw(tree):
    """The tree with random keys as plain integers, which is what is stored."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def digest(tree):
    """SHA-256 over the names, types, shapes and bytes of all leaves."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def seal(note):
    """SHA-256 over the contents of a note, its own "seal" left out."""
    content = {name: value for name, value in note.items() if name != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _differences(theirs, ours):
    """The settings in which two flat configurations differ, as text."""
    names = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
    return ", ".join(f"{k} {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in names)


class Checkpoints:
    """The checkpoints of one run: the last `keep` and the best by score (lowest), none of them ever half-written.

    folder: where they live (created); config: the run's settings, which a checkpoint must share to be restored.
    """

    def __init__(self, folder, config, keep=2):
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

    def steps(self):
        """Steps of the checkpoints that are there, oldest first."""
        return list(self._notes())

    def best_step(self):
        """Step of the checkpoint with the lowest score, or of the last one where none has a score; None without any."""
        notes = self._notes()
        scored = {step: note["score"] for step, note in notes.items() if note["score"] is not None}
        return min(scored, key=scored.get) if scored else max(notes, default=None)

    def save(self, step, state, score=None):
        """Write a checkpoint in the background; waits for the one before, then drops those no longer kept.

        Raises CheckpointError when the disk is full or the folder cannot be written; earlier checkpoints stay as they are.
        """
        self.wait()
        raw = _raw(state)
        note = {"step": step, "score": score, "digest": digest(raw), "config": self.config}
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

    def wait(self):
        """Wait until the last `save` is on disk; raises CheckpointError if it failed."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise self._write_error("in progress", error) from error

    def restore(self, template, step=None):
        """The newest intact checkpoint (or that of `step`, if it is intact) as `(step, state)`; None if there is none.

        `template` is a state of the right structure.  A damaged checkpoint is
        passed over with a warning; one of another configuration raises CheckpointError with the settings that differ.
        """
        notes = self._notes()
        order = sorted(notes, reverse=True)
        if step is not None:
            order = [step] * (step in notes) + [s for s in order if s != step]
        for candidate in order:
            note = notes[candidate]
            if note["config"] != self.config:
                raise CheckpointError(
                    f"the checkpoint {self.folder / str(candidate)} is of another configuration "
                    f"({_differences(note['config'], self.config)}); use those settings or another folder"
                )
            raw = _raw(template)
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), raw
            )
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

    def close(self):
        """Wait for the last save and release Orbax's threads."""
        self.wait()
        self._checkpointer.close()

    def _unraw(self, restored, template):
        def back(x, like):
            if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like))
            return x

        return jax.tree.map(back, restored, template)

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
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.folder} ({why}); "
            f"free disk space or choose another folder, then resume: complete checkpoints are {self.steps()}"
        )
