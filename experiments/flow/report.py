"""Pictures and report of a flow that was fitted to data."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from dlvm_jax.evaluate import pictures

__all__ = ["write"]


def _plane(path, bijection, density, params, test, drawn):
    """Data, samples, density, and what becomes of a grid of latent points."""
    side = np.linspace(-4.5, 4.5, 200, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1)
    p = np.exp(np.asarray(jax.jit(lambda params, x: density.log_prob(params, None, x))(params, grid)))
    lines = np.linspace(-2.5, 2.5, 21, dtype=np.float32)
    fine = np.linspace(-2.5, 2.5, 200, dtype=np.float32)
    across = np.stack(np.meshgrid(lines, fine, indexing="ij"), -1)
    bent = [
        np.asarray(jax.jit(bijection.forward)(params["flow"], jnp.asarray(a))[0])
        for a in (across, across[..., ::-1])
    ]
    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, points, name in zip(panels, (test[:2000], drawn[:2000]), ("data", "samples"), strict=False):
        axes.scatter(points[:, 0], points[:, 1], s=1, alpha=0.5)
        axes.set_title(name)
    panels[2].imshow(p, origin="lower", extent=(-4.5, 4.5, -4.5, 4.5), cmap="magma")
    panels[2].set_title("density")
    for curves in bent:
        for curve in curves:
            panels[3].plot(*curve.T, lw=0.5, color="tab:blue")
    panels[3].set_title("the latent grid, moved")
    for axes in panels:
        axes.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal", xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def _columns(path, test, drawn):
    """Histograms of the first columns of a table, of test rows and of samples."""
    shown = min(8, test.shape[1])
    figure = Figure(figsize=(1.6 * shown, 1.8), layout="constrained")
    for i, axes in enumerate(np.ravel(figure.subplots(1, shown))):
        edges = np.linspace(*np.quantile(test[:, i], [0, 1]), 25)
        for rows, name in ((test, "data"), (drawn, "samples")):
            axes.hist(rows[:, i], edges, density=True, alpha=0.5, label=name)
        axes.set(title=f"column {i}", yticks=[])
    axes.legend(fontsize=6)
    figure.savefig(path, dpi=120)


def write(folder, config, kind, dataset, bijection, density, params, result, record):
    """Write samples, curves and report.md."""
    root = folder.root
    key = jax.random.fold_in(jax.random.key(config.seed), 2**31 + 1)
    count = 100 if kind == "images" else 2000
    drawn, _ = jax.jit(lambda params, key: density.sample(params, key, shape=(count,)))(params, key)
    if kind == "table":
        _columns(root / "samples.png", dataset.test, np.asarray(drawn))
    elif kind == "plane":
        _plane(root / "samples.png", bijection, density, params, dataset.test, np.asarray(drawn))
    else:
        pictures.grid(root / "samples.png", np.clip(np.asarray(drawn), 0, 1), 10, "samples")
    history = folder.metrics()
    steps = [line["step"] for line in history]
    pictures.curves(
        root / "curves.png",
        {"validation": (steps, [line["valid_bound"] for line in history])},
        "log-density, nats",
    )
    lines = ""
    if "KL(data, model)" in result:
        lines += "| KL(data, model), nats | {:.4f} ± {:.4f} |\n".format(*result["KL(data, model)"])
    if "Gaussian" in result:
        lines += "| log-density of a Gaussian, nats | {:.4f} ± {:.4f} |\n".format(*result["Gaussian"])
    if kind == "images":
        lines += f"| bits/dim, at most | {record.bits_per_dim:.4f} |\n"
    for name, bits in result.get("bits_per_dim_of_baseline_codes", {}).items():
        lines += f"| bits/dim of the integers, {name} | {bits:.4f} |\n"
    (root / "report.md").write_text(f"""# Flow on {config.data}

{config.flow}, {config.depth} layers, {result["parameters"]} parameters; {folder.seconds():.0f} s of training, checkpoint of step
{result["step"]}.  {dataset.protocol.description} (protocol `{dataset.protocol.name}`, hash `{dataset.protocol.hash}`).
{record.examples} test examples; ± is the standard error over them.

| quantity | |
|---|---|
| log-density, nats | {record.log_likelihood:.4f} ± {record.standard_error:.4f} |
| largest error of a round trip, float32 | {result["round_trip"]:.1e} |
{lines}
![samples](samples.png)
![curves](curves.png)
""")
