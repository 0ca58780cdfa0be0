"""Runs that are stopped by Ctrl-C at random moments, twice each time, and go on to the result of one that was not, bit for bit.

python -m tests.experiments.stopping 20
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["failures"]

OPTIONS = "--steps 2000 --evaluations 8 --hidden 16 --batch-size 20 --eval-samples 20"
STATUSES = (130, 0)  # stopped; had ended before the signal came
SLOW = 300  # seconds in which any of this ends


def _start(out: Path, resume: bool) -> subprocess.Popen:
    """A run in a session of its own, as a terminal gives it one."""
    arguments = [
        "-m",
        "experiments.vae",
        *OPTIONS.split(),
        "--out",
        str(out),
        *(["--resume"] if resume else []),
    ]
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def fingerprint(out: Path) -> dict[str, str]:
    """What a run must agree in: its log, its result, and the likelihoods of the single examples."""
    return {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in ("metrics.jsonl", "result.json", "nats.npy")
    }


def whole(out: Path) -> float:
    """Carry out a run to its end, or go on with it: seconds.  Raises RuntimeError where it fails."""
    begin = time.monotonic()
    process = _start(out, out.exists())
    said = process.communicate(timeout=SLOW)[0].decode()
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {said[-2000:]}")
    return time.monotonic() - begin


def stopped(out: Path, after: float, between: float) -> tuple[int, float, str]:
    """Press Ctrl-C after so many seconds, and again after so many more: status, seconds from the second to the end, output."""
    process = _start(out, out.exists())
    for seconds in (after, between):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGINT)
    begin = time.monotonic()
    said = process.communicate(timeout=SLOW)[0].decode()
    return process.returncode, time.monotonic() - begin, said


def failures(times: int, seed: int = 0) -> int:
    """Stop and go on so many times, at moments spread over the whole run: how many went wrong."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        length = whole(Path(folder) / "first")
        length = min(length, whole(Path(folder) / "whole"))  # with programs that are compiled already
        expected, failed = fingerprint(Path(folder) / "whole"), 0
        for number in range(times):
            out = Path(folder) / "stopped"
            shutil.rmtree(out, ignore_errors=True)
            after, between = rng.uniform(0, length), rng.choice((0.0, 0.05, 0.3, 1.0))
            status, seconds, said = stopped(out, after, between)
            whole(out)
            same = fingerprint(out) == expected
            good = same and status in STATUSES and "Traceback" not in said
            failed += not good
            print(
                f"{number + 1}: after {after:.2f} s and {between:.2f} s status {status} in {seconds:.2f} s, "
                f"{'the same result' if same else 'ANOTHER RESULT'}{'' if good else ': ' + said[-500:]}",
                flush=True,
            )
        print(f"{times - failed} of {times} right; a run takes {length:.1f} s")
        return failed


if __name__ == "__main__":
    sys.exit(bool(failures(int(sys.argv[1]))))
