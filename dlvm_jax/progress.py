"""What is under way, told on stderr: a line that is drawn again on a terminal, elsewhere a plain line now and then.

`with Progress("train", 5000) as bar: bar.advance(100)` counts; `with phase("compiling"):` only names what takes time.  One may
lie inside another: the innermost is shown.  A thread draws, so that the clock also runs while a program is compiled; a bar such
as tqdm's moves only when something is counted, and fills a log file with carriage returns.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["Progress", "clear", "phase"]

REDRAW, PLAIN = 0.5, 30.0  # seconds between two lines, on a terminal and elsewhere
PATIENCE = 1.0  # seconds for which nothing is said

_lock = threading.RLock()
_shown: list["Progress"] = []
_ticker: threading.Thread | None = None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """So many of so many units, with the time taken and the time left.

    what:    the name of what is under way
    total:   how many units there are; None where nothing is counted
    unit:    their name
    initial: how many were done before
    shown:   False shows nothing
    """

    def __init__(
        self, what: str, total: int | None = None, unit: str = "step", initial: int = 0, shown: bool = True
    ):
        self.what, self.total, self.unit, self.shown = what, total, unit, shown
        self.done = self._initial = initial
        self._note, self._aside, self._begin = "", 0.0, time.monotonic()

    def __enter__(self) -> "Progress":
        self._begin = time.monotonic()
        if self.shown:
            with _lock:
                _shown.append(self)
                _start()
        return self

    def __exit__(self, *_: Any) -> None:
        if not self.shown:
            return
        with _lock:
            _shown.remove(self)
            clear()
            if self.total is not None:
                print(self.line(), file=sys.stderr, flush=True)

    def advance(self, count: int = 1) -> None:
        """So many more units are done."""
        self.done += count

    def note(self, text: str) -> None:
        """Show a text at the end of the line."""
        self._note = text

    @contextlib.contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Name what happens once, such as compiling, whose seconds say nothing of the time left."""
        begin = time.monotonic()
        try:
            with Progress(name, shown=self.shown):
                yield
        finally:
            self._aside += time.monotonic() - begin

    def left(self) -> float | None:
        """Seconds left, None where that is not known."""
        count = self.done - self._initial
        if self.total is None or not count:
            return None
        busy = time.monotonic() - self._begin - self._aside
        return busy / count * (self.total - self.done)

    def line(self) -> str:
        """What is shown."""
        text = self.what if self.total is None else f"{self.what}: {self.unit} {self.done}/{self.total}"
        text += f", {_duration(time.monotonic() - self._begin)}"
        left = self.left()
        if left is not None and self.done < (self.total or 0):
            text += f", {_duration(left)} left"
        return f"{text}; {self._note}" if self._note else text

    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begin


def phase(name: str, shown: bool = True) -> Progress:
    """Name what is under way, where nothing is counted."""
    return Progress(name, shown=shown)


def clear() -> None:
    """Take the line off the terminal, so that something else can be printed there."""
    if _on_terminal():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _on_terminal() -> bool:
    return bool(getattr(sys.stderr, "isatty", lambda: False)())


def _start() -> None:
    """Start the thread that shows the lines; it ends when nothing is under way."""
    global _ticker
    if _ticker is None:
        _ticker = threading.Thread(target=_tick, name="progress", daemon=True)
        _ticker.start()


def _tick() -> None:
    global _ticker
    last = time.monotonic()
    while True:
        time.sleep(REDRAW)
        with _lock, contextlib.suppress(OSError, ValueError):  # where stderr is closed
            if not _shown:
                _ticker = None
                return
            if _on_terminal():
                if _shown[0].seconds() >= PATIENCE:
                    sys.stderr.write(f"\r\x1b[K{_texts()}")
                    sys.stderr.flush()
            elif time.monotonic() - last >= PLAIN:
                last = time.monotonic()
                print(_texts(), file=sys.stderr, flush=True)


def _texts() -> str:
    """The innermost line, after the name of what it is a part of where that counts something."""
    inner, outer = _shown[-1], _shown[0]
    if inner is outer or outer.total is None:
        return inner.line()
    return f"{outer.what}: {outer.unit} {outer.done}/{outer.total}; {inner.line()}"
