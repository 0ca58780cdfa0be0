"""Flows as posteriors (van den Berg, Hasenclever, Tomczak, Welling 2018, tables 1 and 2), static MNIST and Frey Faces."""

from experiments.papers.recipes import vae_run
from experiments.papers.registry import Row

# ELBO in nats on MNIST, minus the ELBO in bits per dimension on Frey Faces, each with its spread
PUBLISHED = {
    ("binarized_mnist", "normal"): "-86.55 ± 0.06",
    ("binarized_mnist", "planar"): "-86.06 ± 0.31",
    ("binarized_mnist", "iaf"): "-84.20 ± 0.17",
    ("binarized_mnist", "sylvester-orthogonal"): "-83.32 ± 0.06",
    ("freyfaces", "normal"): "4.53 ± 0.02",
    ("freyfaces", "planar"): "4.40 ± 0.06",
    ("freyfaces", "iaf"): "4.47 ± 0.05",
    ("freyfaces", "sylvester-triangular"): "4.45 ± 0.04",
}
DATA = {  # title, unit, quantity, settings, which values are better, tolerance
    "binarized_mnist": (
        "static MNIST",
        "nats",
        "elbo",
        {"beta_warm_up": 50_000, "every": 500},
        "higher",
        0.5,
    ),
    "freyfaces": (
        *("Frey Faces", "bits/dim", "elbo_in_bits"),
        *({"likelihood": "categorical", "beta_warm_up": 1500, "every": 15}, "lower", 0.05),
    ),
}
TRAINING = {
    **{"net": "conv", "hidden": (32, 64), "latent_dim": 64, "epochs": 1000, "optimiser": "adamax"},
    **{"learning_rate": 5e-4, "patience": 100, "eval_samples": 500},
}

IAF = ", masked networks of 64 units (there: 1,280)"


def row(data, posterior, published):
    """One cell of the tables."""
    title, unit, quantity, settings, better, tolerance = DATA[data]
    flow, told = ({}, "") if posterior == "normal" else ({"flow_steps": 16}, "16 steps of flow, ")
    return Row(
        name=f"{posterior}-posterior-{title.lower().replace(' ', '-')}",
        source="van den Berg, Hasenclever, Tomczak, Welling 2018, tables 1 and 2",
        what=f"{'ELBO' if better == 'higher' else '-ELBO'}, {unit}, {posterior} posterior, {title}",
        published=published,
        confirmed="a later paper that quotes the tables (Grathwohl et al. 2019)",
        better=better,
        tolerance=tolerance,
        recipe=f"64 latent units, {told}Adamax 5e-4, a warm-up of 100 epochs, early stopping, as there; two strided "
        "3x3 convolutions of 32 and 64 channels and their mirror (there: six gated 5x5 ones)"
        f"{IAF if posterior == 'iaf' else ''}, at most 1,000 epochs (2,000); one seed (three). For a GPU.",
        evaluation="The mean of 500 draws of the ELBO for each test example.",
        run=vae_run(quantity, data=data, posterior=posterior, **TRAINING, **settings, **flow),
    )


ROWS = [row(*cell, published) for cell, published in PUBLISHED.items()]
