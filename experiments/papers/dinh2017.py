"""Flows on images: RealNVP (Dinh, Sohl-Dickstein, Bengio 2017) and Glow (Kingma & Dhariwal 2018) on MNIST."""

from typing import Any, NamedTuple

from experiments.reproduce.readers import flow_run
from experiments.reproduce.registry import Row

OURS = (
    "Two scales of four steps, networks of one residual block and 32 channels, 8,000 steps of 32 images with new noise in each, "
    "Adam 4e-3 along a cosine, logits of 0.01 + 0.98 x; one seed."
)
TOO_SHORT = (
    "A quarter of the steps, along a cosine of its own, is worse by {} bits/dim on the same test images ({}-mnist-quarter), {} "
    "for each doubling: the training is too short; at that pace {} doublings away. "
    "What the size of the network does was not measured."
)
SETTINGS = {
    **{"data": "mnist", "depth": 4, "scales": 2, "width": 32, "hidden": 1},
    **{"batch_size": 32, "steps": 8000, "learning_rate": 4e-3, "ema": 0.999},
}
SHARED = {
    "better": "lower",
    "tolerance": 0.02,
    "evaluation": "Exact density of the 10,000 test images with one fixed draw of the noise.",
}


class Flow(NamedTuple):
    """A flow of the tables: published bits per dimension, how ours differs, what a miss is put down to, and our settings."""

    published: str
    difference: str
    remark: str
    settings: dict[str, Any]


FLOWS = {
    "realnvp": Flow(
        "1.06",
        "The RealNVP of the tables: eight blocks of 64 channels, an alpha of 0.05, flips.",
        TOO_SHORT.format("0.155", "realnvp", "0.077", "1.06 is two to three"),
        {**SETTINGS, "flow": "realnvp"},
    ),
    "spline-glow": Flow(
        "1.05",
        "Splines of 32 bins in the couplings. The Glow of the tables: affine couplings, many more steps of flow.",
        TOO_SHORT.format("0.069", "spline-glow", "0.034", "1.05 is more than two"),
        {**SETTINGS, "flow": "spline-glow", "bins": 32},
    ),
}

ROWS = [
    Row(
        name=f"{name}-mnist",
        source=f"{name.removeprefix('spline-')} on MNIST as tabulated by Grathwohl et al. 2019 (FFJORD)",
        what=f"bits/dim, {name}, 8-bit MNIST, uniform dequantisation (a bound)",
        published=flow.published,
        confirmed="notes on that table",
        recipe=f"{OURS} {flow.difference}",
        run=flow_run(**flow.settings),
        minutes=38,
        remark=flow.remark,
        **SHARED,
    )
    for name, flow in FLOWS.items()
]
