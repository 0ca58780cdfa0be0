"""Ladders: what depth is worth at equal cost; the convolutional ladder on static MNIST, and against a VampPrior."""

from typing import Any

from experiments.papers import hierarchical, tomczak2018
from experiments.reproduce.readers import paired_run, vae_run
from experiments.reproduce.registry import Row

OURS: dict[str, Any] = {"source": "no paper: a model of this library", "published": None, "better": "higher"}

WIDTHS = {1: 325, 2: 242, 3: 205, 6: 151, 12: 109}  # layers: width of all networks, for 1.0 M parameters
STEPS = {1: 46_000}  # one layer takes fewer operations a step than the others, 40,000
TRAINING: dict[str, Any] = {
    **{"data": "mnist", "latent_dim": 16, "learning_rate": 1e-3, "schedule": "cosine"},
    **{"warm_up": 0.02, "ema": 0.999, "clip": 200.0, "beta_warm_up": 4000, "eval_every": 2000},
    **{"eval_samples": 500},
}


def steps(layers: int) -> int:
    """Training steps, such that all depths cost the same."""
    return STEPS.get(layers, 40_000)


def settings(layers: int) -> dict[str, Any]:
    """A plain VAE of residual layers, or a ladder of so many layers, one size of state."""
    width, training = (WIDTHS[layers],), {**TRAINING, "steps": steps(layers)}
    if layers == 1:
        return {
            **training,
            "skip": None,
            "net": "residual",
            "hidden": 2 * width,
        }  # its first gradients are far above 400
    sizes = {"groups": (layers - 1,), "latents": (16,), "widths": width, "hidden": width}
    return {**training, "script": "hierarchical", **sizes}


DEPTHS = [
    Row(
        name=f"depth-{layers}-mnist",
        what=f"log p(x), nats, {layers} latent layer{'s' * (layers > 1)} of 16, 1.0 M parameters, dynamic MNIST",
        confirmed="nowhere for this model",
        **OURS,
        tolerance=0.5,
        recipe=f"Dense residual networks of width {WIDTHS[layers]}, {steps(layers):,} steps of 100 "
        f"({steps(layers) // 500} epochs), beta from 0 over 4,000. "
        f"{'A plain VAE. ' if layers == 1 else ''}All depths have the same parameters within 1 % and operations within 3 %; "
        "Adam 1e-3 along a cosine; one seed.",
        evaluation="Importance weighting, K = 500; of several layers the record has the rate and the active units of each.",
        run=vae_run(**settings(layers)),
        cost=f"1.0 M parameters, {steps(layers):,} steps, 2.3e+13 operations in products",
    )
    for layers in WIDTHS
]
HALF = {**hierarchical.LADDER, "data": "binarized_mnist", "steps": 20_000}
LADDERS = [
    Row(
        name="ladder-5-static-mnist",
        what="log p(x), nats, ladder of 5 layers, static MNIST",
        **OURS,
        confirmed="nowhere for this model",
        tolerance=0.5,
        recipe="The row ladder-5-mnist with half its steps.",
        evaluation="Importance weighting, K = 100.",
        run=vae_run(script="hierarchical", **HALF),
        cost="307,365 parameters, 20,000 steps, 5.7e+13 operations in products",
        remark="Published ladders of 3, 6 and 12 layers, trained on a GPU, have -79.24, -78.52 and -78.30 at K = 1000.",
    ),
    Row(
        name="ladder-over-vamp-mnist",
        what="log p(x) of the ladder of 5 layers less that of two layers with a VampPrior, nats, dynamic MNIST",
        **OURS,
        confirmed="nowhere for this pair",
        tolerance=0.2,
        recipe="The rows ladder-5-mnist and hvae-vamp-mnist; one seed.",
        evaluation="Importance weighting, K = 100 of both, the same test images.",
        run=paired_run(
            {"script": "hierarchical", **hierarchical.LADDER},
            {**tomczak2018.settings(2, "mnist", "vamp"), "eval_samples": 100},
            "hvae-vamp-mnist",
        ),
        minutes=150,
    ),
]
ROWS = DEPTHS + LADDERS
