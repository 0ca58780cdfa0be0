"""What the benchmarks share: candidates in processes of their own that take turns, timing, memory, and a table of ratios."""

import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = [
    "Line",
    "emit",
    "in_turn",
    "matrix_rate",
    "ratios",
    "run_worker",
    "same",
    "same_in_turn",
    "timed",
    "version",
]

OURS = "dlvm_jax"
Line = tuple[str, str, dict[str, float]]  # job, unit, {candidate: figure}


def timed(call: Callable[[], Any], times: int) -> list[float]:
    """Seconds of each call of `call`."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def matrix_rate() -> float:
    """Floating-point operations a second of a matrix product: what the machine can do."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda a: a @ a)
    square = jnp.ones((2048, 2048))
    product(square).block_until_ready()
    return 2 * 2048**3 / min(timed(lambda: product(square).block_until_ready(), 10))


def emit(result: dict[str, Any]) -> None:
    """Print a worker's figures as its process's last line, with the most memory that it held, in MB (of Linux)."""
    status = Path("/proc/self/status")  # resource.getrusage would count what the parent held when it forked
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), math.nan)
    print(json.dumps({**result, "peak memory": peak}))


def run_worker(module: str, name: str, *options: Any) -> dict[str, Any] | None:
    """One candidate of a benchmark in a process of its own; None where it is not installed."""
    line = [sys.executable, "-m", module, "--worker", name, *map(str, options)]
    done = subprocess.run(line, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        sys.exit(f"error: the candidate {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(module: str, names: Iterable[str], rounds: int, *options: Any) -> dict[str, list[dict[str, Any]]]:
    """Results {name: [one a round]} of candidates that take turns; an empty list for one that is not installed."""
    if rounds < 1:
        sys.exit(f"error: a benchmark takes at least one round, got {rounds}")
    found = {name: [] for name in names}
    for number in range(rounds):
        for name, results in found.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            result = run_worker(module, name, *options)
            if result is not None:
                results.append(result)
            elif number == 0:
                print(f"{name}: not installed (pip install -e '.[peers]')")
    return found


def same(what: str, found: dict[str, Any]) -> None:
    """Print how far two sides are apart; stop unless they compute the same, for without it their times mean nothing.

    found: {"parameters": (ours, theirs), anything else: a relative difference}
    """
    ours, theirs = found["parameters"]
    errors = {name: value for name, value in found.items() if name not in ("parameters", "peak memory")}
    shown = ", ".join(f"{name} {value:.0e}" for name, value in errors.items())
    print(f"{what}: parameters {ours} ours, {theirs} PyTorch; differences {shown}")
    if ours != theirs or not all(error <= 1e-4 for error in errors.values()):
        raise SystemExit("error: the two sides do not compute the same; their times mean nothing")


def same_in_turn(module: str, names: Iterable[str], rounds: int, job: str) -> dict[str, list[dict[str, Any]]]:
    """Results of the candidates of a job that are installed, after the check by its worker `agreement`."""
    agreed = run_worker(module, "agreement", "--job", job)
    if agreed is not None:
        same(job, agreed)
    found = in_turn(module, names, rounds, "--job", job)
    return {name: results for name, results in found.items() if results}


def version(name: str) -> str:
    """The installed version, or how to get one."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} not installed (pip install -e '.[peers]')"


def ratios(lines: Iterable[Line]) -> str:
    """One table of all lines: ours, the best of the peers and its ratio to ours, then all the others."""
    table = ["| job | ours | best peer | ratio | other peers |", "|---|---|---|---|---|"]
    for job, unit, figures in lines:
        ours = figures[OURS]
        peers = sorted((figure, name) for name, figure in figures.items() if name != OURS)
        shown = [f"{name} {figure:.3g} ({figure / ours:.2f})" for figure, name in peers[1:]]
        best = f"{peers[0][1]} {peers[0][0]:.3g} | {peers[0][0] / ours:.2f}" if peers else "no peer here |"
        table.append(f"| {job}, {unit} | {ours:.3g} | {best} | {', '.join(shown)} |")
    return "\n".join(table)
