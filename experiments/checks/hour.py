"""What an hour of processor time buys on CIFAR-10: one model of each family, some half an hour on two cores."""

import json
from pathlib import Path
from typing import Any

from experiments import hierarchical
from experiments.reproduce.readers import Run, diffusion_run, flow_run, vae_run
from experiments.reproduce.registry import Row

SHARED: dict[str, Any] = {"data": "cifar10", "batch_size": 16, "evaluations": 3}
SMALL: dict[str, Any] = json.loads(Path(hierarchical.__file__).with_name("vdvae-small.json").read_text())
VDVAE = {**SMALL, **SHARED, "widths": (48,) * 3, "hidden": (24,) * 3, "steps": 6000}
DIFFUSION = {**SHARED, "width": 128, "depth": 3, "patch": 4, "steps": 5000, "eval_samples": 2}
FLOW = {**SHARED, "flow": "spline-glow", "width": 32, "hidden": 1, "steps": 4000}
PIXELCNN = {**SHARED, "net": "pixelcnn", "likelihood": "pixel-mixture", "steps": 1800}


def row(name: str, model: str, recipe: str, evaluation: str, cost: str, run: Run) -> Row:
    """A family's row; recipe: its network and steps."""
    return Row(
        name=f"hour-{name}-cifar10",
        source="no paper: a model of this library",
        what=f"bits/dim, {model} after an hour of processor time, CIFAR-10",
        published=None,
        confirmed="nowhere for this model",
        better="lower",
        tolerance=0.05,
        recipe=f"{recipe} Batches of 16 along a cosine, as many as half an hour on two quiet cores was thought to hold; "
        "nothing was tuned.",
        evaluation=f"{evaluation} All test images that are there; 45,000 images are trained on.",
        run=run,
        cost=cost,
    )


ROWS = [
    row(
        "vdvae",
        "VDVAE of 8 layers (a bound)",
        "Bottleneck blocks of 48 channels at 4 x 4, 8 x 8 and 16 x 16, a mixture of five logistics for each pixel.",
        "The bound.",
        "972,063 parameters, 6,000 steps, 1.3e+14 operations in products",
        vae_run("elbo_in_bits", script="hierarchical", **VDVAE),
    ),
    row(
        "diffusion",
        "diffusion model (a bound)",
        "Three residual blocks of 128 channels on patches of 4 x 4, log-odds of levels.",
        "The bound in continuous time, two draws an image.",
        "3,250,176 parameters, 5,000 steps, 7.7e+13 operations in products",
        diffusion_run(**DIFFUSION),
    ),
    row(
        "flow",
        "Glow with splines (exact, dequantised)",
        "Two scales of four steps, one residual block of 32 channels in each coupling.",
        "Exact, with fixed uniform noise.",
        "221,288 parameters, 4,000 steps, 1.1e+13 operations in products",
        flow_run(**FLOW),
    ),
    row(
        "pixelcnn",
        "gated PixelCNN with a mixture of logistics (exact)",
        "Seven gated layers of 32 channels, five logistics for each pixel, whose channels are given those before them.",
        "Exact.",
        "301,355 parameters, 1,800 steps, 5.3e+13 operations in products",
        vae_run("bits", script="autoregressive", **PIXELCNN),
    ),
]
