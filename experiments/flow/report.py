"""Evaluation, pictures and report of a flow that was fitted to data."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import data as datasets
from dlvm_jax.data import Data, toys
from dlvm_jax.evaluate import evaluation_key, log_likelihood, paired, pictures
from dlvm_jax.evaluate.baseline_code_lengths import baseline_code_lengths
from dlvm_jax.functional.densities import multivariate_normal_log_prob
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder

if TYPE_CHECKING:
    from experiments.flow.__main__ import Config

__all__ = ["dependent", "evaluate_and_write", "gaussian_log_prob", "round_trip", "warn_of"]

REPEATED = 0.1  # share of a column's rows above which one value makes it discrete


def _plane(path, fitted, test, drawn):
    """Data, samples, density, and what becomes of a grid of latent points."""
    side = np.linspace(-4.5, 4.5, 200, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1)
    p = np.exp(np.asarray(jax.jit(lambda x: fitted.log_prob(None, x))(jnp.asarray(grid))))
    lines = np.linspace(-2.5, 2.5, 21, dtype=np.float32)
    fine = np.linspace(-2.5, 2.5, 200, dtype=np.float32)
    across = np.stack(np.meshgrid(lines, fine, indexing="ij"), -1)
    bent = [np.asarray(jax.jit(fitted.decode)(jnp.asarray(a))) for a in (across, across[..., ::-1])]
    figure = pictures.new_figure(figsize=(11, 3), layout="constrained")
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
    figure = pictures.new_figure(figsize=(1.6 * shown, 1.8), layout="constrained")
    for i, axes in enumerate(np.ravel(figure.subplots(1, shown))):
        edges = np.linspace(*np.quantile(test[:, i], [0, 1]), 25)
        for rows, name in ((test, "data"), (drawn, "samples")):
            axes.hist(rows[:, i], edges, density=True, alpha=0.5, label=name)
        axes.set(title=f"column {i}", yticks=[])
    axes.legend(fontsize=6)
    figure.savefig(path, dpi=120)


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """The record of the first seed, what it is compared with, pictures and report.md: the run's result."""
    test = np.asarray(data.test[: config.eval_limit], np.float32)
    key = evaluation_key(config.seeds[0])
    record = log_likelihood(fitted, test, samples=1, key=key, folder=folder.root / "evaluation")
    result = {
        "record": record.as_dict(),
        "step": fitted.step,
        "parameters": sum(map(np.size, jax.tree.leaves(fitted.params))),
        "round_trip": round_trip(fitted, test[:200]),
    }
    kind = _kind(fitted)
    if kind == "plane" and toys.TOYS[data.name].log_prob is not None:
        truth = np.asarray(toys.TOYS[data.name].log_prob(test), np.float64)
        result["KL(data, model)"] = paired(truth - record.per_example)
    gaussian = gaussian_log_prob(data.train, test) if kind == "table" else None
    if gaussian is not None:
        result["Gaussian"] = gaussian
    if kind == "images" and data.levels:
        raw = datasets.load(config.data, transform="levels", resize=config.resize)
        result["bits_per_dim_of_baseline_codes"] = baseline_code_lengths(raw.train, raw.test, raw.levels)
    _write(folder, config, kind, data, fitted, result, record)
    print(f"step {fitted.step}: {record}")
    if "KL(data, model)" in result:
        print("KL(data, model): {:.4f} ± {:.4f} nats".format(*result["KL(data, model)"]))
    return result


def _kind(fitted: Fitted) -> str:
    """What the data are: "plane" for points of a known distribution, "table" for other vectors, else "images"."""
    if len(fitted.spec.event_shape) > 1:
        return "images"
    return "plane" if fitted.spec.name in toys.TOYS else "table"


def gaussian_log_prob(train: np.ndarray, test: np.ndarray) -> tuple[float, float] | None:
    """Log-density of rows under the Gaussian of greatest likelihood, what a flow has to beat: mean and standard error.

    None where the training rows lie in a hyperplane, on which that density is infinite.
    """
    if dependent(train):
        return None
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(train.T, bias=True)))
    return paired(
        np.asarray(multivariate_normal_log_prob(test, train.mean(0), np.float32(factor)), np.float64)
    )


def dependent(rows: np.ndarray) -> int:
    """How many columns of standardised rows the others determine, up to rounding."""
    scales = np.linalg.svd(rows - rows.mean(0, dtype=np.float64), compute_uv=False)
    return rows.shape[1] - int((scales > 1e-5 * scales.max()).sum())


def warn_of(data: Data) -> None:
    """Warn of a table that has no density: where columns depend on each other, or repeat their values."""
    if data.train.ndim != 2 or data.name in toys.TOYS:
        return
    train = np.asarray(data.train)
    if count := dependent(train):
        warnings.warn(
            f"the others determine {count} of {data.name}'s {train.shape[1]} columns on its {len(train)} training rows: "
            "there the likelihood has no upper bound and means little; leave columns out",
            stacklevel=2,
        )
    share = [np.unique(column, return_counts=True)[1].max() / len(column) for column in train.T]
    discrete = [i for i, each in enumerate(share) if each > REPEATED]
    if discrete:
        warnings.warn(
            f"one value takes up more than {REPEATED:.0%} of the columns {discrete} of {data.name}, as of labels or counts: a "
            "density of real numbers has no upper bound there; leave them out, or add noise",
            stacklevel=2,
        )


def round_trip(fitted: Fitted, x: np.ndarray) -> float:
    """The largest distance between a point and what inverse and forward make of it: what float32 leaves of exactness."""
    again = jax.jit(lambda x: fitted.decode(fitted.encode(x)))(jnp.asarray(x))
    return float(jnp.abs(again - x).max())


def _write(folder, config, kind, data, fitted, result, record):
    """Write samples, curves and report.md."""
    root = folder.root
    key = jax.random.fold_in(jax.random.key(config.seeds[0]), 2**31 + 1)
    count = 100 if kind == "images" else 2000
    drawn = jax.jit(lambda key: fitted.sample(key, count))(key)
    if kind == "table":
        _columns(root / "samples.png", data.test, np.asarray(drawn))
    elif kind == "plane":
        _plane(root / "samples.png", fitted, data.test, np.asarray(drawn))
    else:
        pictures.grid(root / "samples.png", np.clip(np.asarray(drawn), 0, 1), 10, "samples")
    history = folder.metrics()
    steps = [line["step"] for line in history]
    pictures.curves(
        root / "curves.png",
        {"validation": (steps, [line.get("valid_bound", line["bound"]) for line in history])},
        "log-density, nats",
    )
    lines = ""
    if "KL(data, model)" in result:
        lines += "| KL(data, model), nats | {:.4f} ± {:.4f} |\n".format(*result["KL(data, model)"])
    if "Gaussian" in result:
        lines += "| log-density of a Gaussian, nats | {:.4f} ± {:.4f} |\n".format(*result["Gaussian"])
    if kind == "images":
        lines += f"| bits/dim, at most | {record.bits_per_dim:.4f} ± {record.bits_standard_error:.4f} |\n"
    for name, bits in result.get("bits_per_dim_of_baseline_codes", {}).items():
        lines += f"| bits/dim of the integers, {name} | {bits:.4f} |\n"
    (root / "report.md").write_text(f"""# Flow on {data.name}

{config.flow}, {config.depth} layers, {result["parameters"]} parameters; {folder.seconds():.0f} s of training, checkpoint of step
{result["step"]}.  {data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
{record.examples} test examples; ± is the standard error over them.

| quantity | |
|---|---|
| log-density, nats | {record.log_likelihood:.4f} ± {record.standard_error:.4f} |
| largest error of a round trip, float32 | {result["round_trip"]:.1e} |
{lines}
![samples](samples.png)
![curves](curves.png)
""")
