"""What the reports of models with a likelihood share: the record of each seed, and the learning curves."""

from pathlib import Path
from typing import Any

import numpy as np

from dlvm_jax.evaluate import Record, evaluation_key, log_likelihood, pictures
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder

__all__ = ["learning_curves", "records_of_seeds"]


def records_of_seeds(config: Any, fitted: Fitted, test: Any, folder: RunFolder) -> list[Record]:
    """The likelihood of test examples under the model of each seed; nats.npy keeps that of each example."""
    records = [
        log_likelihood(
            fitted.of_seed(number),
            test,
            samples=config.eval_samples,
            key=evaluation_key(seed),
            folder=folder.root / "evaluation",
        )
        for number, seed in enumerate(config.seeds)
    ]
    np.save(folder.root / "nats.npy", np.stack([record.per_example for record in records]))
    return records


def learning_curves(root: Path, history: list[dict[str, Any]]) -> None:
    """Write curves.png: the bound in training and validation, or the loss where no bound is trained; means over seeds."""
    steps = [line["step"] for line in history]
    name = "bound" if "bound" in history[-1] else "loss"

    def of(field):
        return steps, np.array([line[field] for line in history]).reshape(len(steps), -1).mean(1)

    series = {"training": of(name)}
    if f"valid_{name}" in history[-1]:
        series["validation"] = of(f"valid_{name}")
    pictures.curves(root / "curves.png", series, f"{name}, nats")
