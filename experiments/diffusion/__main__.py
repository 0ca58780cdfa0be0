"""Train a diffusion model, evaluate its bound (and its likelihood by ODE), and write a report with pictures.

python -m experiments.diffusion                                    # embedded digits, two to three minutes
python -m experiments.diffusion --data eight_gaussians             # in the plane, against the exact entropy
python -m experiments.diffusion --data mnist --width 128 --depth 3 --patch 4 --batch-size 32 --steps 4000   # for likelihood
python -m experiments.diffusion --config experiments/diffusion/looks.json                                   # for looks
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlvm_jax import recipes
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.diffusion import report

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.Diffusion):
    """Train a diffusion model, evaluate it on the test set, and write a report with pictures."""

    data: str = setting(
        "digits",
        "digits (embedded), mnist, cifar10, ... as integer levels; eight_gaussians, checkerboard, two_moons; breast_cancer; a "
        "file (.npy, .npz, .csv), a folder of images; tfds:NAME",
    )
    eval_samples: int = setting(10, "draws of time and noise for each test example", at_least=1)
    ode_examples: int | None = setting(
        None,
        "evaluate so many test examples by the probability-flow ODE; default 2000 vectors, no images (slow)",
        at_least=1,
    )
    classify: int | None = setting(
        None,
        "train a classifier on the labelled images, and report of how many of so many samples it is sure",
        at_least=1,
    )


def run(config: Config) -> Mapping[str, Any] | None:
    """One experiment from its settings to its report: its result."""
    return common.experiment(config, recipes.Diffusion, report.evaluate_and_write, "diffusion")


if __name__ == "__main__":
    common.main(run, Config, __doc__)
