"""Scores, pictures and report of VAEs on shapes with known factors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlvm_jax.data import factors
from dlvm_jax.evaluate import disentanglement, pictures
from dlvm_jax.evaluate.units import ACTIVE, posterior_means
from dlvm_jax.train.fitted import Fitted

if TYPE_CHECKING:
    from experiments.disentangle.__main__ import Config

__all__ = ["evaluate_and_write", "slug"]


def slug(name: str) -> str:
    """The name of a model's folder and pictures."""
    return name.split(",")[0]


def evaluate_and_write(config: "Config", fitted: Mapping[str, Fitted], root: Path) -> Mapping[str, Any]:
    """Scores of each seed of each model, a picture of each and report.md: the run's result."""
    known = factors.all_factors()
    grey = factors.render(known)
    rows = {}
    for name, trained in fitted.items():
        each = [trained.of_seed(number) for number in range(len(config.seeds))]
        rows[name] = [_scores(_means(one, grey), known) for one in each]
        _traversal(root / f"{slug(name)}.png", each[0], grey, name)
        print(f"{name}: {', '.join(f'{score} {_mean(rows[name], score)}' for score in rows[name][0])}")
    steps = next(iter(fitted.values())).config.steps
    (root / "report.md").write_text(_report(config, rows, steps))
    return rows


def _means(fitted, grey):
    """Posterior means of every image."""
    return posterior_means(fitted.model.parts.posterior, fitted.params["posterior"], grey)


def _scores(means, known):
    """The metrics by name."""
    scores = disentanglement.evaluate(means, known)
    return {
        "beta-VAE score": scores.beta_vae,
        "FactorVAE score": scores.factor_vae,
        "MIG": scores.mig,
        "SAP": scores.sap,
        "DCI disentanglement": scores.dci[0],
    }


def _traversal(path, fitted, grey, name):
    """Decoded images while one latent unit runs from -2 to 2, a row a unit, the most used first; collapsed ones are left out."""
    means = _means(fitted, grey)
    spread = means.var(0)
    used = [unit for unit in np.argsort(-spread) if spread[unit] > ACTIVE] or [int(np.argmax(spread))]
    values = np.linspace(-2, 2, 9)
    z = np.tile(means[len(means) // 2], (len(used), len(values), 1))
    for row, unit in enumerate(used):
        z[row, :, unit] = values
    images = np.asarray(fitted.decode(z.reshape(-1, means.shape[1])))
    beside = [f"z{unit}, variance {spread[unit]:.2f}" for unit in used]
    title = f"{name}: one latent unit a row; {len(spread) - len(used)} of {len(spread)} are not used"
    pictures.grid(path, images, 9, title, above=[f"{value:g}" for value in values], beside=beside)


def _mean(rows, score):
    values = np.array([row[score] for row in rows])
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def _report(config, rows, steps):
    """The report as Markdown."""
    names = list(next(iter(rows.values()))[0])
    lines = "\n".join(
        f"| {name} | " + " | ".join(_mean(each, score) for score in names) + " |"
        for name, each in rows.items()
    )
    shown = "\n".join(f"![{name}]({slug(name)}.png)" for name in rows)
    return f"""# Disentanglement on shapes with known factors

All 7680 images ({", ".join(f"{name} {count}" for name, count in factors.LEVELS.items())}), bits drawn anew for each minibatch;
{steps} steps of {config.batch_size}, {len(config.seeds)} seed(s); ± is the standard error over seeds.  Scores are of the
posterior means, one is best.

| objective | {" | ".join(names)} |
|---|{"---|" * len(names)}
{lines}

{shown}
"""
