"""Train the rows of a table one after another on one budget, and print it with standard errors.

python -m experiments.tables mnist-priors        # prior x objective
python -m experiments.tables mnist-sphere        # sphere and plane as latent spaces
python -m experiments.tables mnist-diffusion     # a diffusion prior, trained end to end, beside others
python -m experiments.tables mnist-flows         # flows as prior and posterior
python -m experiments.tables freyfaces-flows     # posteriors under a decoder of 256 levels

A row is a run of `experiments.vae`; a table that was interrupted goes on where it was.
"""

import dataclasses
import re
import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro

from dlvm_jax.train.run import RunFolder, manifest
from experiments import run as common
from experiments.vae import __main__ as vae


class Table(NamedTuple):
    """A title, the settings that all rows share, what each row has of its own, and the pairs of rows whose difference counts."""

    title: str
    shared: dict
    rows: dict[str, dict]
    contrasts: tuple[tuple[str, str], ...]


_PRIORS = {
    "standard": {"prior": "standard"},
    "mixture of 500": {"prior": "mixture", "components": 500},
    "VampPrior of 500": {"prior": "vamp", "components": 500},
}
_OBJECTIVES = {"ELBO": {}, "IWAE-5": {"objective": "iwae", "samples": 5}}
_FLOWS = ("planar", "iaf", "sylvester-orthogonal")

TABLES = {
    "mnist-priors": Table(
        "Prior and objective on MNIST: 784-300-300-40",
        {
            **{"data": "mnist", "latent_dim": 40, "hidden": (300, 300), "epochs": 35},
            **{"schedule": "cosine", "ema": 0.999},
        },
        {
            f"{prior}, {objective}": {**parts, **training}
            for objective, training in _OBJECTIVES.items()
            for prior, parts in _PRIORS.items()
        },
        (
            *((f"{prior}, ELBO", "standard, ELBO") for prior in ("mixture of 500", "VampPrior of 500")),
            *((f"{prior}, IWAE-5", f"{prior}, ELBO") for prior in _PRIORS),
        ),
    ),
    "mnist-sphere": Table(
        "Sphere S^d against the plane R^d on MNIST: 784-256-128-d",
        {
            **{"data": "mnist", "protocol": "dynamic-davidson", "hidden": (256, 128), "epochs": 120},
            **{"schedule": "cosine", "ema": 0.999, "beta_warm_up": 10000},
        },
        {
            f"d = {dim}, {name}": {"latent_dim": dim, "prior": prior, "posterior": posterior}
            for dim in (2, 5)
            for name, prior, posterior in (
                ("Gaussian", "standard", "normal"),
                ("von Mises-Fisher", "sphere", "von-mises-fisher"),
            )
        },
        tuple((f"d = {dim}, von Mises-Fisher", f"d = {dim}, Gaussian") for dim in (2, 5)),
    ),
    "mnist-diffusion": Table(
        "Diffusion prior beside others on MNIST: 784-300-300-16",
        {
            **{"data": "mnist", "latent_dim": 16, "hidden": (300, 300), "epochs": 20, "schedule": "cosine"},
            **{"ema": 0.999, "eval_samples": 50, "eval_limit": 1000},
        },
        {
            "standard": {},
            "VampPrior of 500": {"prior": "vamp", "components": 500},
            "diffusion": {"prior": "diffusion"},
        },
        (("VampPrior of 500", "standard"), ("diffusion", "standard"), ("diffusion", "VampPrior of 500")),
    ),
    "mnist-flows": Table(
        "Flow priors and posteriors on MNIST: 784-300-300-16",
        {
            **{"data": "mnist", "latent_dim": 16, "hidden": (300, 300), "epochs": 20, "schedule": "cosine"},
            **{"ema": 0.999, "eval_samples": 50, "eval_limit": 1000},
        },
        {
            "standard": {},
            "VampPrior of 500": {"prior": "vamp", "components": 500},
            "autoregressive": {"prior": "autoregressive"},
            "RealNVP": {"prior": "flow"},
            "RealNVP, IAF posterior": {"prior": "flow", "posterior": "iaf"},
        },
        tuple(
            (row, "standard")
            for row in ("VampPrior of 500", "autoregressive", "RealNVP", "RealNVP, IAF posterior")
        ),
    ),
    "freyfaces-flows": Table(
        "Posteriors on Frey Faces, categorical decoder of 256 levels: 560-100-20, 8 flow steps",
        {
            **{"data": "freyfaces", "likelihood": "categorical", "latent_dim": 20, "hidden": (100,)},
            **{"epochs": 60, "beta_warm_up": 300, "schedule": "cosine", "ema": 0.99},
        },
        {
            "normal": {"posterior": "normal"},
            **{posterior: {"posterior": posterior, "flow_steps": 8} for posterior in _FLOWS},
        },
        tuple((posterior, "normal") for posterior in _FLOWS),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train all rows of a table and print it."""

    table: tyro.conf.Positional[
        Literal["mnist-priors", "mnist-sphere", "mnist-diffusion", "mnist-flows", "freyfaces-flows"]
    ]
    """which table"""
    out: Path | None = None
    """folder of the table; default runs/TABLE; one that exists is continued"""
    epochs: int | None = None
    """passes over the training set for each row, instead of the table's own number"""
    eval_limit: int | None = None
    """evaluate on the first so many test examples only, instead of the table's own number"""


def row_config(table, config, root, label):
    """The `experiments.vae` configuration of a row."""
    folder = root / re.sub("[^A-Za-z0-9]+", "-", label)
    settings = {**table.shared, **table.rows[label]}
    own = {name: getattr(config, name) for name in ("epochs", "eval_limit")}
    settings |= {name: value for name, value in own.items() if value is not None}
    return vae.Config(**settings, out=folder)


def run(config):
    """All rows, and the table."""
    table, root = TABLES[config.table], config.out or Path("runs") / config.table
    started, rows, nats = time.monotonic(), {}, {}
    configs = {label: row_config(table, config, root, label) for label in table.rows}
    for row in configs.values():
        common.finished(row)  # refuses one of other settings before anything is trained
    folder = RunFolder(root)
    folder.write("manifest.json", manifest())
    for label, row in configs.items():
        print(f"\n{len(rows) + 1} of {len(table.rows)}: {label}")
        result = common.carried_out(vae, row)
        rows[label] = {
            **result["records"]["0"],
            "seconds": RunFolder(row.out).seconds(),
            "step": result["step"],
        }
        nats[label] = np.load(row.out / "nats.npy")[0]
    contrasts = [(*pair, *common.paired(nats[pair[0]] - nats[pair[1]])) for pair in table.contrasts]
    folder.write("result.json", {"rows": rows, "contrasts": contrasts})
    report = _report(table, row.epochs, rows, contrasts)
    (root / "report.md").write_text(report)
    print(f"\n{report}\nwhole table in {time.monotonic() - started:.0f} s; report in {root / 'report.md'}")


def _report(table, epochs, rows, contrasts):
    """The table and its contrasts as Markdown."""
    first = next(iter(rows.values()))
    lines = "\n".join(
        f"| {label} | {r['log_likelihood']:.2f} ± {r['standard_error']:.2f} | {r['bits_per_dim']:.3f} | {r['elbo']:.2f} "
        f"| {r['kl']:.2f} | {'-' if r['active_units'] is None else r['active_units']} | {r['effective_samples']:.1f} "
        f"| {r['seconds']:.0f} |"
        for label, r in rows.items()
    )
    differences = "\n".join(
        f"| {better} | {base} | {mean:+.2f} ± {error:.2f} |" for better, base, mean, error in contrasts
    )
    return f"""# {table.title}

Protocol `{first["protocol"]}` {first["protocol_hash"]}, {first["examples"]} test examples; one seed and {epochs} epochs a row.
log p(x) by importance weighting with K = {first["samples"]}, in nats; ± is the standard error over test examples.

| row | log p(x) | bits/dim | ELBO | KL | active units | effective samples | training, s |
|---|---|---|---|---|---|---|---|
{lines}

Differences of log p(x) on the same test examples; ± is the standard error of the paired difference (one training seed each).

| row | against | difference, nats |
|---|---|---|
{differences}
"""


if __name__ == "__main__":
    common.main(run, tyro.cli(Config, description=__doc__))
