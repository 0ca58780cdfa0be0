"""Train the rows of a table one after another on one budget, and print it with standard errors.

python -m experiments.tables mnist-priors        # prior x objective
python -m experiments.tables mnist-latents      # 2, 5, 10, 20 latent units, with a picture of samples of each
python -m experiments.tables mnist-sphere        # sphere and plane as latent spaces
python -m experiments.tables mnist-diffusion     # a diffusion prior, trained end to end, among others
python -m experiments.tables mnist-flows         # flows as prior and posterior
python -m experiments.tables freyfaces-flows     # posteriors under a decoder of 256 levels
python -m experiments.tables flow-energy         # flows trained on densities known up to a constant

A row is a run of `experiments.vae`, or of `experiments.flow.energy`; a table that was interrupted goes on where it was.
"""

import dataclasses
import importlib
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from dlvm_jax.settings import pick
from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common
from experiments.command import parsed
from experiments.tables import flow_energy, vae
from experiments.tables.table import Table

TABLES = vae.TABLES | flow_energy.TABLES


@dataclasses.dataclass(frozen=True)
class Config:
    """Train all rows of a table and print it."""

    table: tyro.conf.Positional[str]
    """which table: see above"""
    out: Path | None = None
    """folder of the table; default runs/TABLE; one that exists is continued"""
    steps: int | None = None
    """training steps of each row, instead of the table's own number"""
    epochs: int | None = None
    """passes over the training set for each row, instead of the table's own number"""
    eval_limit: int | None = None
    """evaluate on the first so many test examples only, instead of the table's own number"""


def script_of(table: Table) -> ModuleType:
    """The script whose runs the rows are."""
    return importlib.import_module(f"experiments.{table.script}")


def row_configs(table: Table, config: Config, root: Path) -> dict[str, Any]:
    """The configuration of each row's run by label.  Raises ValueError for a length or limit that the rows do not have."""
    script = script_of(table)
    asked = {name: getattr(config, name) for name in ("steps", "epochs", "eval_limit")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if "steps" in asked and "epochs" in asked:
        raise ValueError("give --steps or --epochs, not both")
    configs = {}
    for label, own in table.rows.items():
        settings = {**table.shared, **own}
        if "steps" in asked:
            settings.pop("epochs", None)
        script.Config.check_names(asked)
        folder = root / re.sub("[^A-Za-z0-9]+", "-", label)
        configs[label] = script.Config(**settings | asked, out=folder)
    return configs


def run(config: Config) -> None:
    """All rows, and the table."""
    table, root = pick(TABLES, config.table, "table"), config.out or Path("runs") / config.table
    started, results = time.monotonic(), {}
    script, configs = script_of(table), row_configs(table, config, root)
    for row in configs.values():
        common.finished(row)  # refuses one of other settings before anything is trained
    RunFolder(root).write("manifest.json", manifest())
    for label, row in configs.items():
        print(f"\n{len(results) + 1} of {len(configs)}: {label}")
        results[label] = common.carried_out(script.run, row)
    report = table.write(table, root, configs, results)
    (root / "report.md").write_text(report)
    print(f"\n{report}\nwhole table in {time.monotonic() - started:.0f} s; report in {root / 'report.md'}")


if __name__ == "__main__":
    common.guarded(lambda: run(parsed(Config, __doc__)))
