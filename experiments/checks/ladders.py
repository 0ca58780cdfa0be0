"""What depth is worth: VAEs of 1 to 12 latent layers with the same parameters and operations, on dynamic MNIST."""

from typing import Any

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

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


ROWS = [
    Row(
        name=f"depth-{layers}-mnist",
        source="no paper: a model of this library",
        what=f"log p(x), nats, {layers} latent layer{'s' * (layers > 1)} of 16, 1.0 M parameters, dynamic MNIST",
        published=None,
        confirmed="nowhere for this model",
        better="higher",
        tolerance=0.5,
        recipe=f"Dense residual networks of width {WIDTHS[layers]}, {steps(layers):,} steps of 100 "
        f"({steps(layers) // 500} epochs), beta from 0 over 4,000. "
        "All depths have the same parameters within 1 % and operations within 3 %.",
        evaluation="Importance weighting, K = 500; the record has the rate and the active units of each layer, and the seconds "
        "of training.",
        run=vae_run(**settings(layers)),
        cost=f"1.0 M parameters, {steps(layers):,} steps, 2.3e+13 operations in products",
    )
    for layers in WIDTHS
]
