"""Fit a normalizing flow to data by maximum likelihood, evaluate its exact density, and write a report with pictures.

python -m experiments.flow                                  # eight Gaussians in the plane, about a minute
python -m experiments.flow --data breast_cancer             # a table; or one of your own: --data rows.npy
python -m experiments.flow --data digits --flow glow        # bits per dimension, with stated dequantisation
python -m experiments.flow --data mnist --flow spline-glow --width 32 --hidden 1 --batch-size 32 --steps 8000
python -m experiments.flow.energy                           # instead of data, a density known up to its constant
"""

import dataclasses

from dlvm_jax import recipes
from dlvm_jax.data import Data
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.flow import report

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.Flow):
    """Fit a normalizing flow to data by maximum likelihood."""

    data: str = setting(
        "eight_gaussians",
        "eight_gaussians, checkerboard, two_moons; breast_cancer; digits, mnist, ... (dequantised by uniform noise); a file "
        "(.npy, .npz, .csv), a folder of images; tfds:NAME",
    )


def run(config: Config) -> None:
    """One experiment from its settings to its report."""
    common.experiment(config, recipes.Flow, report.evaluate_and_write, "flow", _load)


def _load(config: Config, recipe: recipes.Flow) -> Data:
    """The data, with a warning where they have no density."""
    data = common.load_data(config, recipe)
    report.warn_of(data)
    return data


if __name__ == "__main__":
    common.main(run, Config, __doc__)
