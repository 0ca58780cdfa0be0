"""Train a hierarchical VAE, evaluate it on held-out data, and show what each of its layers encodes.

python -m experiments.hierarchical                                   # a ladder of three layers on embedded digits
python -m experiments.hierarchical --config experiments/hierarchical/mnist-ladder.json      # five layers, MNIST
"""

import dataclasses

from dlvm_jax import recipes
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.hierarchical import report

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.Hierarchical):
    """Train a hierarchical VAE, evaluate it on the test set, and show what each of its layers encodes."""

    eval_samples: int = setting(100, "importance samples of each test example", at_least=1)
    temperature: float = setting(0.8, "temperature of the random walk and of layers drawn anew", at_least=0)


def run(config: Config) -> None:
    """One experiment from its settings to its report."""
    common.experiment(config, recipes.Hierarchical, report.evaluate_and_write, "hierarchical")


if __name__ == "__main__":
    common.main(run, Config, __doc__)
