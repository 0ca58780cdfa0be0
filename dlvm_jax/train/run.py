"""A run's folder: configuration, metrics, and what produced them.

config.json     the settings
manifest.json   versions, devices, precision, commit
metrics.jsonl   one line an evaluation, deterministic: an interrupted and resumed run writes the same bytes
timing.jsonl    seconds of training at each evaluation
part.npz        metrics since the last evaluation, of a run that was stopped between two
tensorboard/    the same metrics for TensorBoard, where asked for
checkpoints/    see `checkpoint`

A logger is a function (step, metrics) that is called at each evaluation, with the metrics as a dict of floats.  So
`lambda step, metrics: wandb.log(metrics, step=step)` sends them to Weights & Biases, and
`lambda step, metrics: mlflow.log_metrics(metrics, step=step)` to MLflow.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "Logger",
    "RunFolder",
    "manifest",
    "new_folder",
    "program",
    "same_maker",
    "tensorboard_logger",
    "updated_manifest",
]

Logger = Callable[[int, dict[str, float]], Any]


def program() -> str:
    """How the program was started, without the folder it lies in."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


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


def manifest() -> dict[str, Any]:
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
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore[reportAttributeAccessIssue]
        "commit": _commit(),
        "command": f"{program()} {shlex.join(sys.argv[1:])}",
    }


def same_maker(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
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


def tensorboard_logger(folder: Path) -> Logger:
    """A logger that writes TensorBoard files to a folder.  Raises ValueError where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "TensorBoard output needs tensorboardX: pip install 'dlvm_jax[tensorboard]'"
        ) from error
    writer = SummaryWriter(str(folder))

    def log(step, metrics):
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


def _scalars(metrics):
    """Metrics as floats: that of several seeds, a list, as one of each seed."""
    several = {name: value for name, value in metrics.items() if isinstance(value, list)}
    scalars = {name: value for name, value in metrics.items() if name not in several}
    return scalars | {
        f"{name}/seed{i}": one for name, values in several.items() for i, one in enumerate(values)
    }


class RunFolder:
    """The files of one run.  Of several processes all read, and the one with `writes` writes.

    root:        the folder, created
    tensorboard: whether to write TensorBoard files too
    logger:      called as `logger(step, metrics)` at each evaluation; of several seeds a metric comes as "loss/seed0", ...
    writes:      whether this process writes, and calls the logger
    """

    def __init__(
        self,
        root: str | Path,
        *,
        tensorboard: bool = False,
        logger: Logger | None = None,
        writes: bool = True,
    ):
        self.root, self.writes, self._loggers = Path(root), writes, []
        if not writes:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            self._loggers.append(tensorboard_logger(self.root / "tensorboard"))
        if logger is not None:
            self._loggers.append(logger)

    def write(self, name: str, content: Any) -> None:
        """Write a JSON file whole or not at all."""
        if not self.writes:
            return
        temporary = self.root / f"{name}.part"
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(self.root / name)

    def log(self, step: int, metrics: Mapping[str, Any], seconds: float) -> None:
        """Append one evaluation to metrics.jsonl and timing.jsonl, and call the loggers."""
        if not self.writes:
            return
        self._append("metrics.jsonl", {"step": step, **metrics})
        self._append("timing.jsonl", {"step": step, "seconds": round(seconds, 3)})
        for logger in self._loggers:
            logger(step, _scalars(metrics))

    def metrics(self) -> list[dict[str, Any]]:
        """The evaluations logged so far."""
        return self._read("metrics.jsonl")

    def timing(self) -> list[dict[str, Any]]:
        """The step and the seconds of training at each evaluation so far."""
        return self._read("timing.jsonl")

    def seconds(self) -> float:
        """Seconds of training logged so far."""
        timing = self.timing()
        return timing[-1]["seconds"] if timing else 0.0

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`, and a last line cut short."""
        if not self.writes:
            return
        for name in ("metrics.jsonl", "timing.jsonl"):
            lines = [json.dumps(line) for line in self._read(name) if line["step"] <= step]
            temporary = self.root / f"{name}.part"
            temporary.write_text("".join(line + "\n" for line in lines))
            temporary.replace(self.root / name)

    def keep_part(self, step: int, metrics: Mapping[str, np.ndarray], seconds: float) -> None:
        """Keep the metrics {name: [steps, ...]} since the last evaluation, for a run that is stopped at `step`."""
        if not self.writes:
            return
        wide = {name: np.asarray(values, np.float64) for name, values in metrics.items()}  # holds all types
        about = {"step": step, "seconds": seconds, "types": {k: str(v.dtype) for k, v in metrics.items()}}
        stored: dict[str, Any] = {f"of {name}": values for name, values in wide.items()}
        temporary = self.root / "part.npz.part"
        with open(temporary, "wb") as file:
            np.savez(file, **stored, about=json.dumps(about))
        temporary.replace(self.root / "part.npz")

    def part(self, step: int) -> tuple[float, dict[str, np.ndarray]] | None:
        """The seconds of training and the metrics that `keep_part` kept at this step; None where there are none."""
        try:
            with np.load(self.root / "part.npz") as file:
                about = json.loads(str(file["about"]))
                if about["step"] != step:
                    return None
                types = about["types"].items()
                return about["seconds"], {k: file[f"of {k}"].astype(jnp.dtype(t)) for k, t in types}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

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
