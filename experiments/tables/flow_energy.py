"""The table of flows of the papers' protocols on unnormalised densities (Rezende et al. 2020; Rezende & Mohamed 2015)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dlvm_jax.train.run import RunFolder
from experiments.tables.table import Table

TORUS_FLOWS = ("non-compact-projection", "moebius", "circular-spline")
TORUS_TARGETS = ("torus unimodal", "torus multimodal", "torus correlated")

SETTINGS = {  # of the rows
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


def write(table: Table, root: Path, configs: dict[str, Any], results: dict[str, dict]) -> str:
    """result.json and pictures of the densities; gives the report."""
    from experiments.flow import energy_report as shown

    roots = {label: config.out for label, config in configs.items()}
    rows = {label: _recorded(roots[label], result) for label, result in results.items()}
    RunFolder(root).write("result.json", {"rows": rows})
    on_the_torus = {
        target: _densities(roots, {flow: f"{target}, {flow}" for flow in TORUS_FLOWS})
        for target in TORUS_TARGETS
    }
    shown.torus_pictures(root / "torus.png", on_the_torus)
    on_the_sphere = {label.removeprefix("sphere modes, "): label for label in results if "sphere" in label}
    shown.maps(root / "sphere.png", "sphere", _densities(roots, on_the_sphere))
    trained, base = {}, {}
    for label, result in results.items():
        flow, nothing = map(_diagnostics, result["rows"].values())
        trained[f"{label} ({result['seconds']:.0f} s)"] = flow
        target, log_z = table.rows[label]["target"], result["exact_log_partition"]
        base[f"{target} (log Z = {log_z:.4f})"] = nothing
    samples = next(iter(results.values()))["samples"]
    return f"""# {table.title}

Reverse KL, Adam, batches of 256 samples of the flow; {samples} fresh samples for each row; one seed.  ± is the standard error
over samples; seconds of training in brackets.  Settings of each row: `result.json`.

{shown.table(trained)}
A flow that does nothing, uniform or in the plane Gaussian:

{shown.table(base)}
![torus](torus.png)
![sphere](sphere.png)
"""


def _recorded(root: Path, result: dict[str, Any]) -> dict[str, Any]:
    """A row of result.json: the settings, the figures of the flow, and those of the base."""
    settings = json.loads((root / "config.json").read_text())
    flow, nothing = result["rows"].values()
    rest = {name: value for name, value in result.items() if name != "rows"}
    settings = {name: value for name, value in settings.items() if name not in ("out", "resume")}
    return {"settings": settings, **rest, **flow, "nothing": nothing}


def _densities(roots: dict[str, Path], labels: dict[str, str]) -> dict[str, np.ndarray]:
    """Density on the grid of a target and of the flows trained on it, by the labels {name: label} of their rows."""
    files = {name: np.load(roots[label] / "density.npz") for name, label in labels.items()}
    target = next(iter(files.values()))["target"]
    return {"target": target, **{name: file["flow"] for name, file in files.items()}}


def _diagnostics(figures: dict[str, tuple[Any, Any]]) -> Any:
    from dlvm_jax.evaluate.importance import ImportanceDiagnostics
    from dlvm_jax.functional.divergences import MonteCarlo

    return ImportanceDiagnostics(**{name: MonteCarlo(*pair) for name, pair in figures.items()})


TABLES = {"flow-energy": Table("Flows trained on unnormalised densities", "flow.energy", {}, SETTINGS, write)}
