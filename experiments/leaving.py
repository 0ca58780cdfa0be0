"""How a script ends: at once when it is asked to, at any moment, with all output written and no error on the way out.

A signal reaches Python's handlers only between two instructions of the main thread, so not while XLA compiles.  Here a thread
reads the signals, and ends the process itself.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["leave", "new_folders", "remove_empty", "watch", "watched"]

new_folders: list[Path] = []  # of runs that began in this process
_watched = False


def remove_empty() -> None:
    """Take away the new folders that nothing was written to."""
    for folder in new_folders:
        with contextlib.suppress(OSError):  # it is not empty, or was taken away before
            folder.rmdir()


def watched() -> bool:
    """Whether this process is a script whose signals are watched."""
    return _watched


def watch() -> None:
    """Answer Ctrl-C from now on: training under way is stopped with a checkpoint, all else, and a second one, at once."""
    global _watched
    _watched = True
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGINT, _later)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_answer, args=(read,), name="signals", daemon=True).start()


def _later(_number: int, _frame: Any) -> None:
    """The thread answers."""


def _answer(read: int) -> None:
    asked = False
    while True:
        for number in os.read(read, 64):
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            training = _training()
            if asked or training is None:
                _say(number, training)
                leave(128 + number)
            asked = True
            training.tell()


def _training() -> Any:
    """The training under way that has something to save, or that other processes share."""
    stopping = sys.modules.get("dlvm_jax.train.stopping")
    training = stopping and stopping.current()
    return training if training and (training.step > training.saved or _several()) else None


def _several() -> bool:
    """Whether this process is one of several, which must end together."""
    jax = sys.modules.get("jax")
    return bool(jax and jax.distributed.is_initialized())


def _say(number: int, training: Any) -> None:
    text = f"\nstopped by signal {int(number)}; what was saved stays, and --resume goes on from there\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def leave(status: int) -> NoReturn:
    """End the process now: threads of JAX and Orbax may be at work, which Python's own end does not survive under load."""

    def flush():
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()

    flushing = threading.Thread(target=flush, daemon=True)  # another thread may hold the lock of a full pipe
    flushing.start()
    flushing.join(1)
    remove_empty()
    os._exit(status)
