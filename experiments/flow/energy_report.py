"""Evaluation, pictures and report of a flow trained on an unnormalised density."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.evaluate import evaluation_key, pictures
from dlvm_jax.evaluate.importance import importance_diagnostics
from dlvm_jax.recipes.energy_flow import base_of
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder

if TYPE_CHECKING:
    from experiments.flow.energy import Config

__all__ = ["evaluate_and_write", "grid", "maps", "table", "torus_pictures"]

SIDE = 120  # points of a picture's side
RADII = (2.0, 0.9)  # of the torus that is drawn


def grid(domain):
    """Points [SIDE, SIDE, n] of the domain, row by row, and what its picture needs: extent and names of the axes."""
    middle = (np.arange(SIDE) + 0.5) / SIDE

    def plane(low, high):
        return np.stack(np.meshgrid(*(a + (b - a) * middle for a, b in zip(low, high, strict=True))), -1)

    if domain == "torus":
        points, extent, names = plane((-np.pi, -np.pi), (np.pi, np.pi)), np.pi, (r"$\theta_1$", r"$\theta_2$")
        return np.float32(points), (-extent, extent, -extent, extent), names
    if domain == "sphere":
        longitude, latitude = np.moveaxis(plane((-np.pi, -np.pi / 2), (np.pi, np.pi / 2)), -1, 0)
        points = [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ]
        return np.float32(np.stack(points, -1)), (-180, 180, -90, 90), ("longitude", "latitude")
    return np.float32(plane((-4, -4), (4, 4))), (-4, 4, -4, 4), ("$z_1$", "$z_2$")


def maps(path, domain, densities):
    """Densities {name: [SIDE, SIDE]} side by side in one scale of colours."""
    _, extent, names = grid(domain)
    figure = pictures.new_figure(figsize=(4.2 * len(densities), 3.6), layout="constrained")
    top = max(float(values.max()) for values in densities.values())
    for axes, (name, values) in zip(figure.subplots(1, len(densities)), densities.items(), strict=True):
        axes.imshow(values, origin="lower", extent=extent, vmin=0, vmax=top, cmap="magma", aspect="auto")
        axes.set(title=name, xlabel=names[0], ylabel=names[1])
    figure.savefig(path, dpi=110)


def torus_pictures(path, rows):
    """Densities on the torus in 3-D: rows {name: {name: [SIDE, SIDE], theta_1 along the columns}}, a row in one scale."""
    from matplotlib import colormaps

    columns = max(len(row) for row in rows.values())
    figure = pictures.new_figure(figsize=(2.6 * columns, 2.3 * len(rows) + 0.3), layout="constrained")
    around = np.linspace(-np.pi, np.pi, SIDE + 1)
    along, across = np.meshgrid(around, around)
    beside = RADII[0] + RADII[1] * np.cos(across)
    place = beside * np.cos(along), beside * np.sin(along), RADII[1] * np.sin(across)
    for i, (target, row) in enumerate(rows.items()):
        top = max(float(values.max()) for values in row.values())
        for j, (name, values) in enumerate(row.items()):
            axes = figure.add_subplot(len(rows), columns, i * columns + j + 1, projection="3d")
            colours = colormaps["magma"](values / top)
            axes.plot_surface(
                *place, facecolors=colours, rcount=61, ccount=61, shade=False, antialiased=False
            )
            axes.set(
                xlim=(-2.2, 2.2),
                ylim=(-2.2, 2.2),
                zlim=(-1.6, 1.6),
                title=name if len(rows) == 1 or i == 0 else "",
            )
            axes.set_box_aspect((2.2, 2.2, 1.6), zoom=1.1)
            axes.view_init(elev=50, azim=-60)
            axes.set_axis_off()
            if j == 0:
                axes.text2D(0.02, -0.04, target, transform=axes.transAxes, fontsize=9)
    figure.savefig(path, dpi=90)


def evaluate_and_write(config: "Config", data: None, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """The figures of the flow and of its base, pictures and report.md: the run's result."""
    recipe, target, density = fitted.recipe.resolved(), fitted.model.parts, fitted.model.density
    key = evaluation_key(config.seeds[0])
    nothing = base_of(target.domain)
    rows = {
        recipe.flow: _diagnostics(density, target, config.eval_samples, fitted.params, key),
        "nothing (the base)": _diagnostics(nothing, target, config.eval_samples, nothing.init(key), key),
    }
    result = {
        "step": fitted.step,
        "seconds": round(folder.seconds(), 1),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(fitted.params)),
        "samples": config.eval_samples,
        "exact_log_partition": target.log_partition,
        "rows": {name: found._asdict() for name, found in rows.items()},
    }
    shown = _pictures(folder, recipe, target, fitted)
    (folder.root / "report.md").write_text(_report(config, recipe, rows, result, shown))
    kl, effective = rows[recipe.flow].kl_known, rows[recipe.flow].effective
    print(
        f"step {fitted.step}: KL {kl.value:.4f} ± {kl.standard_error:.4f} nats, effective samples "
        f"{effective.value:.1f} ± {effective.standard_error:.1f} %"
    )
    return result


def _diagnostics(density, target, samples, params, key):
    """`ImportanceDiagnostics` of so many fresh samples."""

    @jax.jit
    def log_weights(params, key):
        x, log_q = density.sample(params, key, shape=(samples,))
        return target.log_density(x) - log_q

    with jax.default_matmul_precision("highest"):
        return importance_diagnostics(log_weights(params, key), target.log_partition)


def _pictures(folder, recipe, target, fitted):
    """Write density.npz and the pictures; their names."""
    points, _, _ = grid(target.domain)
    with jax.default_matmul_precision("highest"):
        log_prob = jax.jit(lambda x: fitted.log_prob(None, x))(jnp.asarray(points))
    exact = np.exp(np.asarray(target.log_density(jnp.asarray(points))) - target.log_partition)
    values = {"target": exact, recipe.flow: np.exp(np.asarray(log_prob))}
    np.savez_compressed(folder.root / "density.npz", target=exact, flow=values[recipe.flow])
    maps(folder.root / "density.png", target.domain, values)
    shown = ["density"]
    if target.domain == "torus":
        torus_pictures(folder.root / "torus.png", {recipe.target: values})
        shown.append("torus")
    history = folder.metrics()
    steps, scores = ([line[name] for line in history] for name in ("step", "valid_score"))
    curve = {"KL, by the exact log Z": (steps, scores)}
    pictures.curves(folder.root / "curves.png", curve, "nats, on fixed samples")
    return [*shown, "curves"]


HEADER = """| flow | KL(q, p), nats | the same by the exact log Z | effective samples, % | log Z |
|---|---|---|---|---|
"""


def _line(name, found):
    cells = [f"{value:.5f} ± {error:.2g}" for value, error in (found.kl, found.kl_known)]
    cells.append(f"{found.effective.value:.3f} ± {found.effective.standard_error:.2g}")
    cells.append(f"{found.log_partition.value:.5f} ± {found.log_partition.standard_error:.2g}")
    return f"| {name} | {' | '.join(cells)} |\n"


def table(rows):
    """The figures {name: `ImportanceDiagnostics`} as a table."""
    return HEADER + "".join(_line(name, found) for name, found in rows.items())


def _report(config, recipe, rows, result, shown):
    sizes = {"layers": recipe.layers, "components": recipe.components, "bins": recipe.bins}
    listed = ", ".join(f"{name}: {value}" for name, value in sizes.items() if value is not None)
    return f"""# Flow on {recipe.target}: {recipe.flow}

{listed.capitalize()}; {result["parameters"]} parameters.  Reverse KL, Adam, batch of {config.batch_size}; checkpoint of step
{result["step"]}, {result["seconds"]:.0f} s of training.  Evaluated on {result["samples"]} fresh samples of the
flow q against the normalised target p; exact log Z = {result["exact_log_partition"]:.6f}.  ± is the standard error over samples.

{table(rows)}
{chr(10).join(f"![{name}]({name}.png)" for name in shown)}

Settings: `config.json`; versions and devices: `manifest.json`; curves: `metrics.jsonl`; figures above: `result.json`.
"""
