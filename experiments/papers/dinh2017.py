"""Flows on images: RealNVP (Dinh, Sohl-Dickstein, Bengio 2017) and Glow (Kingma & Dhariwal 2018) on MNIST."""

from experiments.reproduce.readers import EXPERIMENT, flow_run
from experiments.reproduce.registry import Row

OURS = (
    "Two scales of four steps, networks of one residual block and 32 channels, 8,000 steps of 32 images with new noise in each, "
    "Adam 4e-3 along a cosine, logits of 0.01 + 0.98 x; one seed."
)
RUNS = {  # name: (published, recipe, minutes, settings)
    "realnvp": (
        "1.06",
        f"{OURS} The RealNVP of the tables: eight blocks of 64 channels, an alpha of 0.05, flips.",
        38,
        {"flow": "realnvp"},
    ),
    "spline-glow": (
        "1.05",
        f"{OURS} Splines of 32 bins in the couplings. The Glow of the tables: affine couplings, many more steps of flow.",
        38,
        {"flow": "spline-glow", "bins": 32},
    ),
}
REMARKS = {
    "realnvp": "A quarter of the steps, along a cosine of its own, is worse by 0.155 bits/dim on the same test images "
    "(realnvp-mnist-quarter), 0.077 for each doubling: the training is too short; at that pace 1.06 is two to three doublings "
    "away. What the size of the network does was not measured.",
    "spline-glow": "A quarter of the steps, along a cosine of its own, is worse by 0.069 bits/dim on the same test images "
    "(spline-glow-mnist-quarter), 0.034 for each doubling: the training is too short; at that pace 1.05 is more than two "
    "doublings away. What the size of the network does was not measured.",
}

SETTINGS = {
    **{"data": "mnist", "depth": 4, "levels": 2, "width": 32, "hidden": 1},
    **{"batch_size": 32, "steps": 8000, "learning_rate": 4e-3, "ema": 0.999},
}
SHARED = {
    "better": "lower",
    "tolerance": 0.02,
    "evaluation": "Exact density of the 10,000 test images with one fixed draw of the noise.",
}

ROWS = [
    Row(
        name=f"{name}-mnist",
        source=f"{name.removeprefix('spline-')} on MNIST as tabulated by Grathwohl et al. 2019 (FFJORD)",
        what=f"bits/dim, {name}, 8-bit MNIST, uniform dequantisation (a bound)",
        published=published,
        confirmed="notes on that table",
        recipe=recipe,
        run=flow_run(**SETTINGS, **settings),
        minutes=minutes,
        remark=REMARKS[name],
        **SHARED,
    )
    for name, (published, recipe, minutes, settings) in RUNS.items()
]
ROWS += [
    Row(
        name=f"{name}-mnist-quarter",
        what=f"bits/dim of {name}-mnist after a quarter of its steps",
        recipe=f"The row {name}-mnist with 2,000 steps along a cosine of their own; one seed.",
        run=flow_run(**SETTINGS | settings | {"steps": 2000}),
        minutes=12,
        **EXPERIMENT,
        **SHARED,
    )
    for name, (*_, settings) in RUNS.items()
]
