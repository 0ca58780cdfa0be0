"""A request to stop: SIGTERM and SIGINT (Ctrl-C) end training between two pieces of it, after a checkpoint."""

import contextlib
import os
import signal
import threading
from typing import Any

from dlvm_jax.train import parallel

__all__ = ["Interrupted", "Stopping", "current"]

_current: "Stopping | None" = None


class Interrupted(BaseException):
    """The run was asked to stop; all that it did is saved.  `signum` is the signal.

    Like KeyboardInterrupt it is no Exception, so that nothing takes it for an error and goes on.
    """

    def __init__(self, signum: int, where: str):
        super().__init__(f"stopped by signal {signum} at {where}; resume to go on from there")
        self.signum = signum


def current() -> "Stopping | None":
    """Of the training that is under way, None outside of training."""
    return _current


class Stopping:
    """Notes the signals that ask to stop while it is entered; `agreed` tells them, to all processes alike.

    saved:   the step of the last checkpoint on disk;  writing: of one that is perhaps still on its way there
    step:    of the parameters;  seconds: the longest that steps taken at once have lasted

    The training loop keeps them.
    """

    def __init__(self, step: int):
        self.received: int | None = None
        self.saved = self.writing = self.step = step
        self.seconds = 0.0
        self._previous: dict[int, Any] = {}
        self._told = False
        self._lock = threading.Lock()

    def __enter__(self) -> "Stopping":
        global _current
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: leave signals alone
                return self
        _current = self
        return self

    def __exit__(self, *_: Any) -> None:
        global _current
        if self._previous:
            _current = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        self.tell()

    def tell(self) -> None:
        """Say, once, what happens next and how long it takes.  Straight to the file: a handler may not wait for a lock."""
        with self._lock:
            if self._told or not parallel.is_primary():
                return
            self._told = True
        about = f"about {max(1, round(self.seconds))} s" if self.seconds else "a few seconds"
        text = (
            f"\nstopping: the steps under way are finished and saved, which takes {about}; "
            f"Ctrl-C again leaves at once, and the run then goes on from step {self.saved}\n"
        )
        with contextlib.suppress(OSError):
            os.write(2, text.encode())

    def agreed(self) -> int | None:
        """The signal that any process received, or None; all processes ask together."""
        (received,) = parallel.largest(self.received or 0)
        return int(received) or None

    def took(self, seconds: float) -> None:
        """Steps taken at once lasted so long."""
        self.seconds = max(self.seconds, seconds)
