"""A run's folder: configuration, metrics, and what produced them.

config.json     the settings
manifest.json   versions, devices, precision, commit
metrics.jsonl   one line an evaluation, deterministic: an interrupted and resumed run writes the same bytes
timing.jsonl    seconds of training at each evaluation
checkpoints/    see `checkpoint`
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

__all__ = ["RunFolder", "manifest", "new_folder", "same_maker", "updated_manifest"]


def _program():
    """How the program was started, without the folder it lies in."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else Path(sys.argv[0]).name


def _cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _commit():
    """The commit of this library's files, -dirty where code was changed or added since (results may have been)."""
    git = ["git", "-C", str(Path(__file__).parent)]
    options = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        commit = subprocess.run([*git, "describe", "--always"], **options).stdout.strip()
        status = [
            *git,
            "status",
            "--porcelain",
            "--untracked-files=all",
            ":(top)*.py",
            ":(top)pyproject.toml",
        ]
        return commit + "-dirty" * bool(subprocess.run(status, **options).stdout)
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def manifest():
    """What produced a result: versions, devices, matrix-product precision, commit, command."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "dlvm_jax")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "packages": versions,
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
        "cpu_count": _cores(),
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
        "commit": _commit(),
        "command": f"{_program()} {shlex.join(sys.argv[1:])}",
    }


def same_maker(one, other):
    """Whether two manifests name the same commit, versions, devices and number of cores."""
    return all(one.get(name) == other.get(name) for name in ("commit", "packages", "devices", "cpu_count"))


def updated_manifest(root: Path) -> dict[str, Any]:
    """What computes a run now, and under "before" what began it, each time on another machine or commit."""
    path, now = Path(root) / "manifest.json", manifest()
    if not path.exists():
        return now
    last = json.loads(path.read_text())
    before = last.pop("before", [])
    if not same_maker(last, now):
        before.append(last)
    return now | ({"before": before} if before else {})


def new_folder(name: str) -> Path:
    """Create and return the first unused folder of runs/NAME-001, runs/NAME-002, ..."""
    number = 1
    while True:
        try:
            (folder := Path("runs") / f"{name}-{number:03d}").mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


class RunFolder:
    """The files of one run.  Of several processes all read, and the one with `writes` writes."""

    def __init__(self, root, tensorboard=False, writes=True):
        self.root, self.writes = Path(root), writes
        self._writer = None
        if not writes:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    "TensorBoard output needs tensorboardX: pip install 'dlvm_jax[tensorboard]'"
                ) from error
            self._writer = SummaryWriter(str(self.root / "tensorboard"))

    def write(self, name, content):
        """Write a JSON file whole or not at all."""
        if not self.writes:
            return
        temporary = self.root / f"{name}.part"
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(self.root / name)

    def log(self, step, metrics, seconds):
        """Append one evaluation to metrics.jsonl and timing.jsonl (and TensorBoard)."""
        if not self.writes:
            return
        self._append("metrics.jsonl", {"step": step, **metrics})
        self._append("timing.jsonl", {"step": step, "seconds": round(seconds, 3)})
        if self._writer is not None:
            for name, value in metrics.items():
                for seed, one in enumerate(value if isinstance(value, list) else [value]):
                    self._writer.add_scalar(
                        f"{name}/seed{seed}" if isinstance(value, list) else name, one, step
                    )
            self._writer.flush()

    def metrics(self):
        """The evaluations logged so far."""
        return self._read("metrics.jsonl")

    def timing(self):
        """The step and the seconds of training at each evaluation so far."""
        return self._read("timing.jsonl")

    def seconds(self):
        """Seconds of training logged so far."""
        timing = self.timing()
        return timing[-1]["seconds"] if timing else 0.0

    def rewind(self, step):
        """Forget what was logged after `step`, and a last line cut short."""
        if not self.writes:
            return
        for name in ("metrics.jsonl", "timing.jsonl"):
            lines = [json.dumps(line) for line in self._read(name) if line["step"] <= step]
            temporary = self.root / f"{name}.part"
            temporary.write_text("".join(line + "\n" for line in lines))
            temporary.replace(self.root / name)

    def _append(self, name, line):
        with open(self.root / name, "a") as file:
            file.write(json.dumps(line) + "\n")

    def _read(self, name):
        if not (self.root / name).exists():
            return []
        lines = []
        for line in (self.root / name).read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # cut short by a kill; nothing can follow it
        return lines
