"""Train an autoregressive model by maximum likelihood, evaluate its exact likelihood on held-out data, and draw from it.

python -m experiments.autoregressive                                             # a MADE of embedded digits
python -m experiments.autoregressive --data binarized_mnist --net pixelcnn       # static MNIST
"""

import dataclasses
from typing import ClassVar

from dlvm_jax import recipes
from experiments import run as common
from experiments.autoregressive import report

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.Autoregressive):
    """Train an autoregressive model, evaluate its exact likelihood on the test set, and draw from it."""

    eval_samples: ClassVar[int] = 1  # the density is exact


def run(config: Config) -> None:
    """One experiment from its settings to its report."""
    common.experiment(config, recipes.Autoregressive, report.evaluate_and_write, "autoregressive")


if __name__ == "__main__":
    common.main(run, Config, __doc__)
