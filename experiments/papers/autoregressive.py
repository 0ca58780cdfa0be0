"""Gated PixelCNN on static MNIST (van den Oord et al. 2016)."""

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

ROWS = [
    Row(
        name="pixelcnn-static-mnist",
        source="van den Oord et al. 2016, table of static MNIST (PixelCNN)",
        what="log p(x), nats, gated PixelCNN, static MNIST",
        published="-81.30",
        confirmed="a table in another project's README",
        better="higher",
        tolerance=0.5,
        recipe="Seven gated layers of 32 channels, kernels of 5, batches of 16, Adam 1e-3 along a cosine: "
        "eight epochs.",
        evaluation="Exact.",
        run=vae_run(
            script="autoregressive",
            data="binarized_mnist",
            patience=10,
            net="pixelcnn",
            width=32,
            depth=7,
            kernel=5,
            steps=25_000,
            batch_size=16,
            learning_rate=1e-3,
            ema=0.999,
            eval_every=2500,
        ),
        cost="297,761 parameters, 25,000 steps, 5.6e+14 operations in products",
    ),
]
