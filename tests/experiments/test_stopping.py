"""Ctrl-C, twice, at random moments of a script: status 130, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import leaving, run
from tests.experiments.stopping import failures

WORKER = """
import sys
sys.argv[0] = "-m"  # as while `python -m experiments.vae` begins
import experiments
{}
"""


def ended(code, *pauses):
    """Status and output of a process that gets a SIGINT after each pause, from when it says that it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER.format(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout.readline() == "begun\n"
        for seconds in pauses:
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGINT)
        status = process.wait(timeout=60)
        return status, process.stdout.read()
    finally:
        process.kill()


def test_outside_of_training_the_first_one_leaves_at_once():
    status, out = ended(
        "import time; print('begun', flush=True); print('last words', end=''); time.sleep(60)", 0.1
    )
    assert status == 130 and "stopped by signal 2" in out and "last words" in out and "Traceback" not in out


def test_a_run_that_stops_before_anything_is_written_leaves_no_folder(tmp_path, monkeypatch):
    """Also where the process ends in the thread that reads the signals, while the main one is at work."""
    there = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "_exit", lambda status: there.append(folder.exists()))
    with run.run_folder(run.Common(), "vae-digits") as folder:
        assert folder.exists()
        leaving.leave(130)
    with run.run_folder(run.Common(), "vae-digits") as folder:
        (folder / "model.json").touch()
        leaving.leave(130)
    assert there == [False, True] and folder.exists()


IN_TRAINING = """
from dlvm_jax.train import stopping
with stopping.Stopping(0) as asked:
    asked.step = 3
    print("begun", flush=True)
    import time
    {}
"""


def test_in_training_the_first_one_is_noted_and_the_second_leaves():
    """Though the main thread may be in a program of XLA, where no handler of Python runs: here in one long instruction."""

    busy = IN_TRAINING.format("import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)")
    status, out = ended(busy, 0.1, 0.5)
    assert status == 130 and "stopping: the steps under way are finished" in out and "Traceback" not in out
    noted = IN_TRAINING.format(
        "while not asked.agreed(): time.sleep(0.01)\n    print('agreed', asked.agreed(), flush=True)"
    )
    status, out = ended(noted, 0.1)
    assert status == 0 and "agreed 2" in out


@pytest.mark.slow
def test_double_stops_at_random_moments_lose_nothing():
    assert failures(2) == 0
