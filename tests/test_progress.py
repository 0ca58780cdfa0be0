"""Progress on a terminal and elsewhere."""

import io
import sys
import time

import pytest

from dlvm_jax import progress
from dlvm_jax.progress import Progress, phase


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def fast(monkeypatch):
    """The waiting times in hundredths of seconds."""
    for name, value in {"REDRAW": 0.01, "PLAIN": 0.05, "PATIENCE": 0.02}.items():
        monkeypatch.setattr(progress, name, value)


def shown(monkeypatch, terminal, texts, within=5.0):
    """What is written while the first counts and another lies inside it, as soon as all texts are there."""
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("train", 50) as bar:
        bar.advance(20)
        bar.note("loss 1.00")
        with bar.aside("compiling"):
            end = time.monotonic() + within
            while time.monotonic() < end and not all(text in stream.getvalue() for text in texts):
                time.sleep(0.005)
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_innermost_is_named_with_what_it_is_a_part_of(monkeypatch, fast, terminal):
    text = shown(monkeypatch, terminal, ["train: step 20/50; compiling, 0:00"])
    assert "train: step 20/50; compiling, 0:00" in text
    assert ("\r" in text) == terminal and ("\x1b[K" in text) == terminal
    assert text.splitlines()[-1].endswith("; loss 1.00")


def test_little_is_said_where_nobody_watches(monkeypatch):
    """Less than half a minute says the end of what is counted, and nothing else."""
    text = shown(monkeypatch, False, ["never"], within=0.7)
    assert len(text.splitlines()) == 1 and text.startswith("train: step 20/50, 0:00, ")
    with phase("drawing", shown=False), Progress("evaluating", 5, shown=False) as bar:
        bar.advance(5)
    assert sys.stderr.getvalue() == text


def test_the_time_left_does_not_count_compiling(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("train", 100, initial=40, shown=False) as bar:
        assert bar.left() is None
        with bar.aside("compiling"):
            clock[0] += 60
        clock[0] += 10
        bar.advance(20)
        assert bar.left() == pytest.approx(20)  # 10 s for 20 steps, of which 40 are left
        clock[0] += 3700
        assert bar.line().startswith("train: step 60/100, 1:02:50, ")
