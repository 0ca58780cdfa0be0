"""MADE (Germain et al. 2015) on four tables of bits that densities are customarily compared on."""

from typing import Any

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

MADE = "Germain et al. 2015, negative log-likelihoods of the UCI sets (MADE, mask sampling)"
SPN = "Rooshenas & Lowd 2014, log-likelihoods of 20 data sets (ID-SPN, a sum-product network)"


def _row(
    data: str,
    name: str,
    source: str,
    published: str,
    tolerance: float,
    width: int,
    orders: int,
    **settings: Any,
) -> Row:
    """A MADE of a table."""
    steps = settings["steps"]
    return Row(
        name=f"made-{data}",
        source=source,
        what=f"log p(x), nats, MADE of {orders} orders, {name}",
        published=published,
        confirmed="nowhere: from memory",
        better="higher",
        tolerance=tolerance,
        recipe=f"One hidden layer of {width}, {orders} orders, at most {steps:,} steps of 100 with Adam 1e-3, an average of the "
        "parameters; the best of the validation set.",
        evaluation="Exact: the mean probability over the orders.",
        run=vae_run(
            script="autoregressive",
            data=data,
            hidden=(width,),
            orders=orders,
            learning_rate=1e-3,
            schedule="constant",
            patience=10,
            **settings,
        ),
        minutes=2,
    )


ROWS = [
    _row("nltcs", "NLTCS", SPN, "-6.02", 0.05, 200, 8, steps=8000, eval_every=200),
    _row("mushrooms", "Mushrooms", MADE, "-9.69", 0.05, 1000, 8, steps=20_000, eval_every=500, ema=0.999),
    _row("dna", "DNA", MADE, "-79.66", 0.5, 500, 32, steps=12_000, eval_every=100),
    _row("nips", "NIPS-0-12", MADE, "-277.28", 0.5, 500, 32, steps=3000, eval_every=20),
]
