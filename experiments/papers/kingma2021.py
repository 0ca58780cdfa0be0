"""Bits per dimension of variational diffusion models (Kingma, Salimans, Poole, Ho 2021) on 8-bit MNIST."""

from experiments.reproduce.readers import diffusion_run
from experiments.reproduce.registry import Row

SIZES = {  # (blocks, channels): bits/dim on MNIST; our parameters, and floating-point operations in matrix products
    (16, 64): ("0.936", "1,581,889", 3.6e16),
    (8, 32): ("1.037", "215,713", 4.5e15),
    (4, 16): ("1.109", "31,633", 5.6e14),
}
SETTINGS = {
    **{"net": "flat", "patch": 1, "target": "epsilon", "log_snr": (-5.0, 13.3), "dropout": 0.1},
    **{"batch_size": 64, "steps": 100_000, "learning_rate": 2e-4, "ema": 0.9999},
}
SHARED = {
    "better": "lower",
    "tolerance": 0.02,
    "evaluation": "Variational bound of the 10,000 test images in continuous time.",
}


def row(name: str, data: str, title: str, blocks: int, channels: int) -> Row:
    """A model on MNIST, or on another data set, for which nothing is published.

    name, title: of the data set, in the row's name and in words
    """
    published, parameters, operations = SIZES[blocks, channels]
    is_mnist = data == "mnist"
    return Row(
        name=f"vdm-{name}-{blocks}x{channels}",
        source="Kingma et al. 2021 (who have no such data)",
        what=f"bits/dim, VDM of {blocks} blocks of {channels} channels, 8-bit {title} (a bound)",
        published=published if is_mnist else None,
        confirmed="report and scripts of a public run" if is_mnist else "nowhere for this model",
        recipe="Noise prediction, linear log-SNR from 13.3 to -5, Adam 2e-4 along a cosine (there: AdamW with decay 0.01, "
        "constant), an average of 0.9999, 100,000 steps of 64. Our residual network has 1.58 M, 216 k or 32 k parameters, "
        "that of the public run on MNIST 3.98 M, 0.56 M or 131 k. For a GPU.",
        run=diffusion_run(**SETTINGS, data=data, depth=blocks, width=channels),
        cost=f"{parameters} parameters, 100,000 steps, {operations:.1e} operations in products",
        **SHARED,
    )


ROWS = [row("mnist", "mnist", "MNIST", *size) for size in SIZES]
