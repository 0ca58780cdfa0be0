"""Tables of VAEs: priors, objectives, posteriors and latent spaces on one budget."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlvm_jax import train
from dlvm_jax.evaluate import paired, pictures
from dlvm_jax.train.run import RunFolder
from experiments.tables.table import Table

_ROW = 14  # samples in a row of a picture
_PRIORS = {
    "standard": {"prior": "standard"},
    "mixture of 500": {"prior": "mixture", "components": 500},
    "VampPrior of 500": {"prior": "vamp", "components": 500},
}
_OBJECTIVES = {"ELBO": {}, "IWAE-5": {"objective": "iwae", "samples": 5}}
_FLOWS = ("planar", "iaf", "sylvester-orthogonal")
_SIXTEEN = {
    **{"data": "mnist", "latent_dim": 16, "hidden": (300, 300), "epochs": 20, "schedule": "cosine"},
    **{"ema": 0.999, "eval_samples": 50, "eval_limit": 1000},
}


def write(table: Table, root: Path, configs: dict[str, Any], results: dict[str, dict]) -> str:
    """result.json with the records of all rows and their differences; gives the report."""
    rows, nats = {}, {}
    for label, config in configs.items():
        folder, result = RunFolder(config.out), results[label]
        rows[label] = {**result["records"]["0"], "seconds": folder.seconds(), "step": result["step"]}
        nats[label] = np.load(config.out / "nats.npy")[0]
    contrasts = [(better, base, *paired(nats[better] - nats[base])) for better, base in table.contrasts]
    RunFolder(root).write("result.json", {"rows": rows, "contrasts": contrasts})
    first = next(iter(configs.values()))
    length = f"{first.epochs} epochs" if first.epochs else f"{first.steps} steps"
    return _report(table.title, length, rows, contrasts)


def _report(title: str, length: str, rows: dict[str, dict], contrasts: list[tuple]) -> str:
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
    return f"""# {title}

Protocol `{first["protocol"]}` {first["protocol_hash"]}, {first["examples"]} test examples; one seed and {length} a row.
log p(x) by importance weighting with K = {first["samples"]}, in nats; ± is the standard error over test examples.

| row | log p(x) | bits/dim | ELBO | KL | active units | effective samples | training, s |
|---|---|---|---|---|---|---|---|
{lines}

Differences of log p(x) on the same test examples; ± is the standard error of the paired difference (one training seed each).

| row | against | difference, nats |
|---|---|---|
{differences}
"""


def write_with_samples(table: Table, root: Path, configs: dict[str, Any], results: dict[str, dict]) -> str:
    """The same with a picture of ten samples of each row, as means of p(x|z)."""
    blocks = []
    for config in configs.values():
        fitted = train.load(config.out)
        prior, own = fitted.model.parts.prior, fitted.model.parts.tied(fitted.params)
        z, _ = prior.sample(own["prior"], jax.random.key(0), None, (3 * _ROW,))
        blocks.append(np.asarray(fitted.decode(z)))
    beside = [name for label in configs for name in ("", label, "")]
    title = "means of p(x|z), z ~ p(z), three rows for each model"
    pictures.grid(root / "samples.png", np.concatenate(blocks), _ROW, title, beside=beside)
    return write(table, root, configs, results) + "\n![samples](samples.png)\n"


def vae_table(
    title: str,
    shared: dict[str, Any],
    rows: dict[str, dict],
    contrasts: tuple[tuple[str, str], ...],
    writer: Callable = write,
) -> Table:
    """A table whose rows are runs of `experiments.vae`."""
    return Table(title, "vae.__main__", shared, rows, writer, contrasts)


TABLES = {
    "mnist-priors": vae_table(
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
    "mnist-latents": vae_table(
        "Latent dimensions on MNIST: 784-500-d",
        {
            **{"data": "mnist", "hidden": (500,), "epochs": 20, "schedule": "cosine", "ema": 0.999},
            **{"eval_limit": 2000, "eval_samples": 200},
        },
        {f"d = {dim}": {"latent_dim": dim} for dim in (2, 5, 10, 20)},
        tuple((f"d = {larger}", f"d = {less}") for less, larger in itertools.pairwise((2, 5, 10, 20))),
        write_with_samples,
    ),
    "mnist-sphere": vae_table(
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
    "mnist-diffusion": vae_table(
        "Diffusion prior beside others on MNIST: 784-300-300-16",
        _SIXTEEN,
        {
            "standard": {},
            "VampPrior of 500": {"prior": "vamp", "components": 500},
            "diffusion": {"prior": "diffusion"},
        },
        (("VampPrior of 500", "standard"), ("diffusion", "standard"), ("diffusion", "VampPrior of 500")),
    ),
    "mnist-flows": vae_table(
        "Flow priors and posteriors on MNIST: 784-300-300-16",
        _SIXTEEN,
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
    "freyfaces-flows": vae_table(
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
