"""Flows on images: RealNVP (Dinh, Sohl-Dickstein, Bengio 2017) and Glow (Kingma & Dhariwal 2018)."""

from experiments.papers.recipes import flow_run
from experiments.papers.registry import Row

RUNS = {  # name: (source, published, minutes, settings)
    "realnvp": ("Dinh, Sohl-Dickstein, Bengio 2017", 1.06, 22, {"flow": "realnvp"}),
    "spline-glow": (
        "Kingma & Dhariwal 2018, with affine couplings",
        1.05,
        25,
        {"flow": "spline-glow", "bins": 32},
    ),
}

ROWS = [
    Row(
        name=f"{name}-mnist",
        source=source,
        what=f"bits/dim, {name}, 8-bit MNIST, uniform dequantisation (a bound)",
        published=published,
        confirmed="tables of later papers, which quote it",
        better="lower",
        tolerance=0.02,
        recipe="Two scales of four steps, networks of one residual block and 32 channels, 8,000 steps of 32 images, logits of "
        "0.01 + 0.98 x (the paper: eight blocks of 64 channels, many epochs, an alpha of 0.05); one seed.",
        evaluation="Exact density of the 10,000 test images with one fixed draw of the noise.",
        run=flow_run(
            **{"data": "mnist", "depth": 4, "levels": 2, "width": 32, "hidden": 1},
            **{"batch_size": 32, "steps": 8000, "learning_rate": 4e-3, "ema": 0.999},
            **settings,
        ),
        minutes=minutes,
    )
    for name, (source, published, minutes, settings) in RUNS.items()
]
