"""Flows as posteriors (van den Berg, Hasenclever, Tomczak, Welling 2018, tables 1 and 2), static MNIST and Frey Faces."""

from typing import Any, NamedTuple

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Better, Row

PUBLISHED = {  # (data, posterior): the value with its spread, and how many parameters ours has
    ("binarized_mnist", "normal"): ("-86.55 ± 0.06", "3,073,249"),
    ("binarized_mnist", "planar"): ("-86.06 ± 0.31", "3,603,697"),
    ("binarized_mnist", "iaf"): ("-84.20 ± 0.17", "3,379,457"),
    ("binarized_mnist", "sylvester-orthogonal"): ("-83.32 ± 0.06", "15,968,481"),
    ("freyfaces", "normal"): ("4.53 ± 0.02", "2,506,432"),
    ("freyfaces", "planar"): ("4.40 ± 0.06", "3,036,880"),
    ("freyfaces", "iaf"): ("4.47 ± 0.05", "2,812,640"),
    ("freyfaces", "sylvester-triangular"): ("4.45 ± 0.04", "19,875,520"),
}


class Quantity(NamedTuple):
    """What a table prints of a data set: titles, what is read off a run, which values are better, the run's own settings."""

    title: str
    name: str
    read: str
    better: Better
    tolerance: float
    settings: dict[str, Any]
    cost: str


QUANTITIES = {
    "binarized_mnist": Quantity(
        *("static MNIST", "ELBO, nats", "elbo", "higher", 0.5),
        {"beta_warm_up": 50_000, "eval_every": 500},
        "500,000 steps, 5.2e16 to 5.6e16",
    ),
    "freyfaces": Quantity(
        *("Frey Faces", "-ELBO, bits/dim", "elbo_in_bits", "lower", 0.05),
        {"likelihood": "categorical", "beta_warm_up": 1500, "eval_every": 15},
        "15,000 steps, 1.2e15 to 1.3e15",
    ),
}
TRAINING = {
    **{"net": "gated-conv", "hidden": (32, 64), "latent_dim": 64, "epochs": 1000, "optimiser": "adamax"},
    **{"learning_rate": 5e-4, "patience": 100, "eval_samples": 500},
}
IAF = ", masked networks of 64 units (there: 1,280)"


def row(data: str, posterior: str) -> Row:
    """One cell of the tables."""
    published, parameters = PUBLISHED[data, posterior]
    quantity, is_flow = QUANTITIES[data], posterior != "normal"
    settings = quantity.settings | ({"flow_steps": 16} if is_flow else {})
    return Row(
        name=f"{posterior}-posterior-{quantity.title.lower().replace(' ', '-')}",
        source="van den Berg, Hasenclever, Tomczak, Welling 2018, tables 1 and 2",
        what=f"{quantity.name}, {posterior} posterior, {quantity.title}",
        published=published,
        confirmed="a later paper that quotes the tables (Grathwohl et al. 2019)",
        better=quantity.better,
        tolerance=quantity.tolerance,
        recipe=f"64 latent units, {'16 steps of flow, ' * is_flow}Adamax 5e-4, a warm-up of 100 epochs, early stopping, gated "
        "convolutions of 5x5, as there"
        f"{IAF * (posterior == 'iaf')}, at most 1,000 epochs (2,000); one seed (three). For a GPU.",
        evaluation="The mean of 500 draws of the ELBO for each test example.",
        cost=f"{parameters} parameters, at most {quantity.cost} operations in products",
        run=vae_run(quantity.read, data=data, posterior=posterior, **TRAINING, **settings),
    )


ROWS = [row(*cell) for cell in PUBLISHED]
