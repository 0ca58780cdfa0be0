"""Evaluation, pictures and report of a diffusion prior, beside the VAE's own."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import evaluation_key, log_likelihood, paired, pictures
from dlvm_jax.recipes.networks import top
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder

if TYPE_CHECKING:
    from experiments.diffusion.prior import Config

__all__ = ["evaluate_and_write"]

ESTIMATORS = {"bound": "bound", "evidence": None}  # None: importance weighting


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Bound and evidence under both priors, paired differences, pictures and report.md: the run's result."""
    seed, test = config.seeds[0], data.test[: config.eval_limit]
    records, nats = {}, []
    for name, densities in _rows(fitted).items():
        pair = {
            what: log_likelihood(
                evaluated,
                test,
                samples=config.eval_samples,
                key=evaluation_key(seed),
                estimator=ESTIMATORS[what],
                folder=folder.root / "evaluation" / f"{len(records)} {what}",
            )
            for what, evaluated in densities.items()
        }
        records[name] = {what: record.as_dict() for what, record in pair.items()}
        nats.append([record.per_example for record in pair.values()])
    differences = [paired(after - before) for before, after in zip(*nats, strict=True)]
    result = {"records": records, "differences": differences, "step": fitted.step}
    _pictures(folder, fitted, jax.random.key(seed))
    report = _report(data, fitted, result, folder.seconds())
    (folder.root / "report.md").write_text(report)
    print(report)
    return result


def _rows(fitted: Fitted) -> dict[str, dict[str, Fitted]]:
    """The VAE under each prior, by name, once for its bound and once for its evidence."""
    parts = fitted.model.parts
    own = dataclasses.replace(fitted, model=parts.vae, per_seed=(parts.held,))
    of = lambda density: dataclasses.replace(fitted, model=fitted.model._replace(density=density))
    return {
        f"its own, {parts.recipe.prior}": {"bound": own, "evidence": own},
        "diffusion": {"bound": of(parts.bound), "evidence": of(parts.exact)},
    }


def _pictures(folder: RunFolder, fitted: Fitted, key: jax.Array) -> None:
    """Means of p(x|z) under both priors, and the learning curve."""
    parts = fitted.model.parts
    own = parts.vae.parts.tied(parts.held)
    priors = {
        "samples_before": (f"its own, {parts.recipe.prior}", parts.vae.parts.prior, own["prior"]),
        "samples_after": ("diffusion", parts.prior, fitted.params),
    }
    for file, (name, prior, params) in priors.items():
        z, _ = prior.sample(params, key, shape=(100,))
        images = np.asarray(parts.vae.parts.decoder.mean(own["decoder"], z)) / top(fitted.spec)
        pictures.grid(folder.root / f"{file}.png", images, 10, f"means of p(x|z), z of the prior: {name}")
    history = folder.metrics()
    steps = [line["step"] for line in history]
    fields = {"training": "bound", "validation": "valid_bound"}
    curves = {
        name: (steps, [np.mean(line[field]) for line in history])
        for name, field in fields.items()
        if field in history[-1]
    }
    pictures.curves(folder.root / "curves.png", curves, "bound on E log p(z), nats")


def _report(data: Data, fitted: Fitted, result: Mapping[str, Any], seconds: float) -> str:
    """The comparison as Markdown."""
    records, recipe = result["records"], fitted.model.parts.recipe
    first = next(iter(records.values()))["evidence"]

    def cell(record):
        return f"{record['log_likelihood']:.2f} ± {record['standard_error']:.2f}"

    lines = "\n".join(
        f"| {name} | {cell(row['bound'])} | {cell(row['evidence'])} |" for name, row in records.items()
    )
    change = " | ".join(f"{mean:+.2f} ± {error:.2f}" for mean, error in result["differences"])
    return f"""# Diffusion prior of a VAE on {data.name}

Encoder and decoder of a VAE with prior {recipe.prior} and {recipe.latent_dim} latent units, frozen; the diffusion of its
standardised latent vectors trained for {seconds:.0f} s, checkpoint of step {result["step"]}.
Protocol `{data.protocol.name}` {data.protocol.hash}, {first["examples"]} test examples, K = {first["samples"]}; nats; ± is
the standard error over examples, of the paired difference in the last row.

| prior | bound (ELBO) | evidence (importance weighting) |
|---|---|---|
{lines}
| difference | {change} |

The bound has the diffusion's own variational bound for log p(z), the evidence its density by the probability-flow ODE.

![before](samples_before.png)
![after](samples_after.png)
![curves](curves.png)
"""
