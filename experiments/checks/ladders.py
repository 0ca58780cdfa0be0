"""What depth is worth: VAEs of 1 to 12 latent layers with the same parameters and operations a step, on dynamic MNIST."""

from typing import Any

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

WIDTHS = {1: 325, 2: 242, 3: 205, 6: 151, 12: 109}  # layers: width of all networks, for 1.0 M parameters
TRAINING: dict[str, Any] = {
    **{"data": "mnist", "latent_dim": 16, "steps": 40_000, "learning_rate": 1e-3, "schedule": "cosine"},
    **{"warm_up": 0.02, "ema": 0.999, "clip": 200.0, "skip": 400.0, "beta_warm_up": 4000, "eval_every": 2000},
    **{"eval_samples": 500},
}


def settings(layers: int) -> dict[str, Any]:
    """A plain VAE of residual layers, or a ladder of so many layers, one size of state."""
    width = (WIDTHS[layers],)
    if layers == 1:
        return {**TRAINING, "net": "residual", "hidden": 2 * width}
    sizes = {"groups": (layers - 1,), "latents": (16,), "widths": width, "hidden": width}
    return {**TRAINING, "script": "hierarchical", **sizes}


ROWS = [
    Row(
        name=f"depth-{layers}-mnist",
        source="no paper: a model of this library",
        what=f"log p(x), nats, {layers} latent layer{'s' * (layers > 1)} of 16, 1.0 M parameters, dynamic MNIST",
        published=None,
        confirmed="nowhere for this model",
        better="higher",
        tolerance=0.5,
        recipe=f"Dense residual networks of width {WIDTHS[layers]}, 40,000 steps of 100 (80 epochs), beta from 0 over 4,000. "
        "All depths have the same parameters within 1 % and, but for one layer, operations within 3 %.",
        evaluation="Importance weighting, K = 500; the record has the rate of each layer and the seconds of training.",
        run=vae_run(**settings(layers)),
        cost="1.0 M parameters, 40,000 steps, 2.3e+13 operations in products",
    )
    for layers in WIDTHS
]
