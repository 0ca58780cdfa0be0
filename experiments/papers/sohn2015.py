"""Conditional variational autoencoders that fill in quadrants of MNIST (Sohn, Lee, Yan 2015, table 1)."""

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

RERUN = {1: 71.8, 2: 51.0, 3: 24.2}

ROWS = [
    Row(
        name=f"cvae-quadrants-{given}",
        source="Sohn, Lee, Yan 2015, table 1",
        what=f"log p(rest | {given} quadrant{'s' if given > 1 else ''}), nats, MNIST",
        published=None,
        confirmed="nowhere: the paper's own values are in no source that we trust",
        better="higher",
        tolerance=1.0,
        recipe="Latent dimension 200, layers 500-500; 30 epochs along a cosine with an average of the parameters.",
        evaluation="Importance weighting, K = 100, of dynamically binarised test images.",
        remark=f"A public rerun of the paper has {value}, another quantity: minus an ELBO whose targets are grey levels, "
        "which is no likelihood of any data.",
        run=vae_run(
            data="mnist",
            condition=f"quadrants-{given}",
            latent_dim=200,
            hidden=(500, 500),
            prior="learned",
            epochs=30,
            schedule="cosine",
            ema=0.999,
            eval_samples=100,
        ),
        minutes=25,
    )
    for given, value in RERUN.items()
]
