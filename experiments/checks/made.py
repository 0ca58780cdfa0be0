"""MADE (Germain et al. 2015) on four tables of bits that densities are customarily compared on, and on static MNIST.

The papers' values are known from memory alone, so no verdict is passed on ours.
"""

from typing import Any

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row


def row(name: str, data: str, title: str, remembered: str, recipe: str, orders: int, **settings: Any) -> Row:
    """A MADE of a table; remembered: what is in print, from memory."""
    return Row(
        name=f"made-{name}",
        source="no paper: a model of this library",
        what=f"log p(x), nats, MADE of {orders} orders, {title}",
        published=None,
        confirmed="nowhere",
        better="higher",
        tolerance=0.5,
        recipe=f"{recipe}; the best of the validation set.",
        evaluation="Exact: the mean probability over the orders.",
        run=vae_run(
            script="autoregressive", data=data, orders=orders, learning_rate=1e-3, patience=10, **settings
        ),
        minutes=2 if data != "binarized_mnist" else None,
        cost=""
        if data != "binarized_mnist"
        else "2,570,784 parameters, 50,000 steps, 6.9e+13 operations in products",
        remark=f"In print, from memory: {remembered}.",
    )


def table(
    name: str, title: str, remembered: str, width: int, orders: int, steps: int, **settings: Any
) -> Row:
    """A MADE of a table of bits."""
    recipe = f"One hidden layer of {width}, {orders} orders, at most {steps:,} steps of 100 with Adam 1e-3, an average of the "
    recipe += "parameters"
    return row(
        name,
        name,
        title,
        remembered,
        recipe,
        orders,
        hidden=(width,),
        steps=steps,
        schedule="constant",
        **settings,
    )


ROWS = [
    table("nltcs", "NLTCS", "-6.02 by ID-SPN (Rooshenas & Lowd 2014)", 200, 8, 8000, eval_every=200),
    table(
        "mushrooms", "Mushrooms", "-9.69 (Germain et al. 2015)", 1000, 8, 20_000, eval_every=500, ema=0.999
    ),
    table(
        "dna",
        "DNA",
        "-79.66 (Germain et al. 2015), perhaps of another split",
        500,
        32,
        12_000,
        eval_every=100,
    ),
    table("nips", "NIPS-0-12", "-277.28 (Germain et al. 2015)", 500, 32, 3000, eval_every=20),
    row(
        "static-mnist",
        "binarized_mnist",
        "static MNIST",
        "-86.64 with two hidden layers of 8,000 and 32 masks (Germain et al. 2015)",
        "Two hidden layers of 1,000, 8 orders, at most 100 epochs of 100 with Adam 1e-3 along a cosine, an average of the "
        "parameters",
        8,
        hidden=(1000, 1000),
        steps=50_000,
        ema=0.999,
        eval_every=1000,
    ),
]
