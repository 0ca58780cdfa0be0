"""Train the flows of the papers' protocols one after another and print their table (Rezende et al. 2020; Rezende & Mohamed 2015).

python -m experiments.tables.flow_energy

A row is a run of `experiments.flow.energy`; a table that was interrupted goes on where it was.
"""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import tyro

from dlvm_jax.functional.divergences import MonteCarlo
from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common
from experiments.flow import energy as flow_energy
from experiments.flow import energy_report as flow_energy_report
from experiments.flow.energy_setup import Config as Run

TORUS_FLOWS = ("non-compact-projection", "moebius", "circular-spline")
TORUS_TARGETS = ("torus unimodal", "torus multimodal", "torus correlated")

ROWS = {
    **{
        f"{target}, {flow}": {"target": target, "flow": flow, "steps": 10_000}
        for target in TORUS_TARGETS
        for flow in TORUS_FLOWS
    },
    "sphere modes, moebius-spline (1, 12, 32)": {
        **{"target": "sphere modes", "flow": "moebius-spline", "layers": 1, "components": 12, "bins": 32},
        "steps": 20_000,
    },
    **{
        f"sphere modes, exponential ({layers}, {components})": {
            **{"target": "sphere modes", "flow": "exponential", "layers": layers, "components": components},
            "steps": 10_000,
        }
        for layers, components in ((1, 12), (6, 5), (24, 1))
    },
    "U1, planar K = 32": {
        **{"target": "U1", "flow": "planar", "layers": 32, "annealing": 10_000, "steps": 20_000},
    },
    **{f"{target}, spline": {"target": target, "flow": "spline"} for target in ("U2", "U3", "U4")},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train all rows of the table and print it."""

    out: Path = Path("runs/flow-energy")
    """folder of the table; one that exists is continued"""
    steps: int | None = None
    """training steps of each row, instead of the row's own number"""


def run(config):
    """All rows, result.json, report.md and pictures."""
    common.at_least("steps", config.steps, 1)
    folder = RunFolder(config.out)
    results, roots = {}, {}
    for label, settings in ROWS.items():
        steps = {} if config.steps is None else {"steps": config.steps}
        roots[label] = config.out / re.sub("[^A-Za-z0-9]+", "-", label)
        row = Run(**{**settings, **steps}, out=roots[label])
        results[label] = common.carried_out(flow_energy, row)
    folder.write("manifest.json", manifest())
    folder.write("result.json", {"rows": {label: _recorded(roots[label], results[label]) for label in ROWS}})
    on_the_torus = {
        target: _densities(roots, {flow: f"{target}, {flow}" for flow in TORUS_FLOWS})
        for target in TORUS_TARGETS
    }
    flow_energy_report.torus_pictures(config.out / "torus.png", on_the_torus)
    on_the_sphere = {label.removeprefix("sphere modes, "): label for label in ROWS if "sphere" in label}
    flow_energy_report.maps(config.out / "sphere.png", "sphere", _densities(roots, on_the_sphere))
    (config.out / "report.md").write_text(_report(results))
    print((config.out / "report.md").read_text())


def _recorded(root, result):
    """A row of result.json: the settings, the figures of the flow, and those of the base."""
    settings = json.loads((root / "config.json").read_text())
    flow, nothing = result["rows"].values()
    rest = {name: value for name, value in result.items() if name != "rows"}
    shown = {name: value for name, value in settings.items() if name not in ("out", "resume")}
    return {"settings": shown, **rest, **flow, "nothing": nothing}


def _densities(roots, labels):
    """{name: density on the grid} of a target and of the flows trained on it, by the labels {name: label} of their rows."""
    files = {name: np.load(roots[label] / "density.npz") for name, label in labels.items()}
    target = next(iter(files.values()))["target"]
    return {"target": target, **{name: file["flow"] for name, file in files.items()}}


def _weighting(figures):
    return ImportanceDiagnostics(**{name: MonteCarlo(*pair) for name, pair in figures.items()})


def _report(results):
    rows, nothing = {}, {}
    for label, result in results.items():
        trained, base = result["rows"].values()
        rows[f"{label} ({result['seconds']:.0f} s)"] = _weighting(trained)
        nothing[f"{ROWS[label]['target']} (log Z = {result['exact_log_partition']:.4f})"] = _weighting(base)
    samples = next(iter(results.values()))["samples"]
    return f"""# Flows trained on unnormalised densities

Reverse KL, Adam, batches of 256 samples of the flow; {samples} fresh samples for each row; one seed.  ± is the standard error
over samples; seconds of training in brackets.  Settings of each row: `result.json`.

{flow_energy_report.table(rows)}
A flow that does nothing, uniform or in the plane Gaussian:

{flow_energy_report.table(nothing)}
![torus](torus.png)
![sphere](sphere.png)
"""


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
