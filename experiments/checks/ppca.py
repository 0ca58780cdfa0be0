"""Probabilistic PCA in closed form (Tipping & Bishop 1999)."""

from experiments.reproduce.readers import ppca_run
from experiments.reproduce.registry import Row

EXACT = {2: "543.67", 5: "653.88", 10: "741.12", 20: "836.06", 50: "979.35", 100: "1066.14"}

ROWS = [
    Row(
        name=f"ppca-freyfaces-{latent}",
        source="Tipping & Bishop 1999, eq. 7 and 8",
        what=f"log p(x), nats, pPCA of {latent} dimensions, Frey Faces",
        published=value,
        confirmed="a computation in NumPy apart from this library; the paper has no such table",
        better="same",
        tolerance=0.005,
        recipe="Grey levels / 255, 1565 images for training, the last 200 of a permutation for the test; closed form.",
        evaluation="Exact density of the test images; the exact value is of the same images, so that ± over images is not "
        "between the two.",
        run=ppca_run(latent, data="freyfaces"),
        minutes=0.2,
    )
    for latent, value in EXACT.items()
]
