"""Importance-weighted autoencoders (Burda, Grosse, Salakhutdinov 2016, table 1), one stochastic layer, MNIST."""

from experiments.papers.recipes import vae_run
from experiments.papers.registry import Row

PUBLISHED = {
    ("vae", 1): -86.76,
    ("vae", 5): -86.47,
    ("vae", 50): -86.35,
    ("iwae", 5): -85.54,
    ("iwae", 50): -84.78,
}
MINUTES = {("vae", 1): 40}
OBJECTIVES = {  # the ELBO of several samples is Renyi's bound of order 1
    ("vae", 1): {},
    ("vae", 5): {"objective": "renyi", "alpha": 1.0, "samples": 5},
    ("vae", 50): {"objective": "renyi", "alpha": 1.0, "samples": 50},
    ("iwae", 5): {"objective": "iwae", "samples": 5},
    ("iwae", 50): {"objective": "iwae", "samples": 50},
}

ROWS = [
    Row(
        name=f"{kind}-{samples}-mnist",
        source="Burda, Grosse, Salakhutdinov 2016, table 1",
        what=f"log p(x), nats, {kind.upper()}, k = {samples}, one layer, dynamic MNIST",
        published=published,
        confirmed="a public implementation that quotes the table",
        better="higher",
        tolerance=0.3,
        recipe="784-200-200-50 (ReLU; the paper: tanh), 400 epochs of shuffled batches of 100, Adam 1e-3 along a cosine and an "
        "average of the parameters (the paper's code: 3,280 epochs of batches of 20 that are not shuffled, eight stages of Adam "
        "with beta1 = 0.99 and epsilon = 1e-4, gradients summed over the batch); one seed.",
        evaluation="Importance weighting, K = 5000, as the paper.",
        run=vae_run(
            **{
                "data": "mnist",
                "protocol": "dynamic-burda",
                "hidden": (200, 200),
                "latent_dim": 50,
                "epochs": 400,
            },
            **{
                "schedule": "cosine",
                "ema": 0.999,
                "every": 1000,
                "eval_samples": 5000,
                **OBJECTIVES[kind, samples],
            },
        ),
        minutes=MINUTES.get((kind, samples)),
    )
    for (kind, samples), published in PUBLISHED.items()
]
