"""Autoregressive models on static MNIST: MADE (Germain et al. 2015), gated PixelCNN (van den Oord et al. 2016)."""

from typing import Any

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

STATIC: dict[str, Any] = {"script": "autoregressive", "data": "binarized_mnist", "patience": 10}

ROWS = [
    Row(
        name="made-static-mnist",
        source="Germain et al. 2015, table 6 (two hidden layers, 32 masks)",
        what="log p(x), nats, MADE of 8 orders, static MNIST",
        published="-86.64",
        confirmed="nowhere: from memory",
        better="higher",
        tolerance=0.5,
        recipe="Two hidden layers of 1,000 (there: 8,000), 8 orders (there: 32 masks), at most 100 epochs of 100 with Adam 1e-3 "
        "along a cosine, an average of the parameters; the best of the validation set.",
        evaluation="Exact: the mean probability over the orders.",
        run=vae_run(
            **STATIC,
            hidden=(1000, 1000),
            orders=8,
            steps=50_000,
            learning_rate=1e-3,
            ema=0.999,
            eval_every=1000,
        ),
        cost="2,570,784 parameters, 50,000 steps, 6.9e+13 operations in products",
    ),
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
            **STATIC,
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
