"""VAE with a VampPrior (Tomczak & Welling 2018), against the values of a rerun with several seeds (Norouzi et al. 2020)."""

from experiments.papers.recipes import vae_run
from experiments.papers.registry import Row

RERUN = {  # (data, prior): (log p(x), spread)
    ("mnist", "standard"): (-84.45, 0.12),
    ("mnist", "vamp"): (-82.43, 0.06),
    ("fashion_mnist", "standard"): (-228.70, 0.15),
    ("fashion_mnist", "vamp"): (-227.35, 0.05),
}
TITLES = {"mnist": "dynamic MNIST", "fashion_mnist": "dynamic Fashion-MNIST"}

ROWS = [
    Row(
        name=f"vae-{prior}-{data.replace('_', '-')}",
        source="Norouzi, Fleet, Norouzi 2020, table of densities (the recipe of Tomczak & Welling 2018)",
        what=f"log p(x), nats, VAE, {prior} prior, {TITLES[data]}",
        published=published,
        spread=spread,
        confirmed="a picture of the table in the authors' repository",
        better="higher",
        tolerance=0.5,
        recipe=f"784-300-300-40 of gated layers, batch 100{', 500 pseudo-inputs' if prior == 'vamp' else ''}; 300 epochs of Adam "
        "1e-3 along a cosine, a warm-up of 20 epochs, an average of the parameters (the paper: up to 2000 epochs with normalised "
        "gradients at 5e-4, a warm-up of 100 epochs, early stopping after 50); one seed.",
        evaluation="Importance weighting, K = 5000, as there.",
        run=vae_run(
            **{
                "data": data,
                "protocol": "dynamic-tomczak",
                "net": "gated",
                "hidden": (300, 300),
                "latent_dim": 40,
            },
            **{
                "epochs": 300,
                "schedule": "cosine",
                "ema": 0.999,
                "beta_warm_up": 10_000,
                "every": 1000,
                "eval_samples": 5000,
            },
            **({"prior": "vamp", "components": 500} if prior == "vamp" else {}),
        ),
        minutes=50 if prior == "vamp" else 30,
    )
    for (data, prior), (published, spread) in RERUN.items()
]
