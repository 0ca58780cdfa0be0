"""VQ-VAE on CIFAR-10 (van den Oord et al. 2017), with the paper's network and code book."""

from typing import Any

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

CIFAR: dict[str, Any] = {
    **{"script": "vq_vae", "data": "cifar10", "likelihood": "pixel-mixture", "codes": 512, "code_dim": 64},
    **{"maps": 10, "width": 256, "depth": 2, "steps": 250_000, "batch_size": 128, "learning_rate": 2e-4},
    **{"schedule": "constant", "warm_up": 0, "eval_every": 2500},
}
PRIOR: dict[str, Any] = {"prior_width": 128, "prior_depth": 10, "prior_steps": 50_000}
COMMON = (
    "Two strided convolutions of 256 channels, two residual blocks, 8 x 8 x 10 codes of a book of 512, commitment .25, 250,000 "
    "steps of 128 with Adam 2e-4, as there; the book follows moving averages and dead codes start anew, a mixture of five "
    "logistics for each pixel."
)

ROWS = [
    Row(
        name="vq-vae-cifar10",
        source="van den Oord et al. 2017, section 4.1",
        what="bits/dim, VQ-VAE under the uniform prior of its codes, CIFAR-10 (a bound)",
        published="4.67",
        confirmed="the paper's text",
        better="lower",
        tolerance=0.05,
        recipe=COMMON,
        evaluation="The bound of the test images at the encoder's codes.",
        run=vae_run("elbo_in_bits", **CIFAR, **PRIOR),
        cost="10,654,155 parameters, 250,000 steps, 2.2e+17 operations in products",
    ),
    Row(
        name="vq-vae-prior-cifar10",
        source="van den Oord et al. 2017, section 4.1",
        what="bits/dim, VQ-VAE under a PixelCNN of its codes, CIFAR-10 (a bound)",
        published="4.67",
        confirmed="the paper's text",
        better="lower",
        tolerance=0.05,
        recipe=COMMON + " Then a gated PixelCNN of ten layers of 128 channels for the codes, 50,000 steps.",
        evaluation="The bound of the test images at the encoder's codes.",
        run=vae_run("learned_prior_in_bits", **CIFAR, **PRIOR),
        cost="10,654,155 and 6,813,824 parameters, 250,000 and 50,000 steps, 3.9e+17 operations in products",
    ),
]
