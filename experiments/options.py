"""The options of all scripts as Markdown, from the settings themselves.

python -m experiments.options         # writes them between the marks of experiments/README.md
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

from experiments import run

__all__ = ["write"]

SCRIPTS = (
    "vae",
    "hierarchical",
    "autoregressive",
    "vq_vae",
    "voice",
    "diffusion",
    "diffusion.prior",
    "flow",
    "flow.energy",
    "ppca",
    "autoencoder",
    "disentangle",
    "restoration",
    "sbi",
)
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- what `python -m experiments.options` writes -->\n", "<!-- end of it -->\n"


def _config(script: str) -> Any:
    """The configuration of a script."""
    for module in (f"experiments.{script}.__main__", f"experiments.{script}"):
        try:
            return importlib.import_module(module).Config
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ValueError(f"experiments.{script} has no Config")


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _said(field: dataclasses.Field) -> tuple[Any, str]:
    """What a row of a table says of a setting."""
    return field.default, field.metadata.get("help", "")


def _table(config: Any, names: list[str]) -> list[str]:
    fields = {field.name: field for field in dataclasses.fields(config)}
    rows = ["| option | default | |", "|---|---|---|"]
    for name in names:
        help = fields[name].metadata.get("help", "").replace("|", "\\|")
        rows.append(f"| `--{name.replace('_', '-')}` | {_value(fields[name].default)} | {help} |")
    return rows


def text() -> str:
    """The tables: the options that all scripts share, then those of each."""
    shared = list(run.Common.names())
    data = [name for name in run.OnData.names() if name not in shared]
    lines = ["### All scripts", "", *_table(run.Common, shared), ""]
    lines += ["### Scripts that train on data", "", *_table(run.OnData, data), ""]
    for script in SCRIPTS:
        config = _config(script)
        fields = {field.name: field for field in dataclasses.fields(config)}
        common = {field.name: field for field in dataclasses.fields(run.OnData)}
        own = [
            name
            for name, field in fields.items()
            if name not in common or _said(field) != _said(common[name])
        ]
        lines += [f"### python -m experiments.{script}", "", *_table(config, own), ""]
    return "\n".join(lines)


def write(path: Path = README) -> None:
    """Write the tables between the marks of a file."""
    before, rest = path.read_text().split(BEGIN)
    path.write_text(before + BEGIN + text() + END + rest.split(END)[1])


if __name__ == "__main__":
    write()
