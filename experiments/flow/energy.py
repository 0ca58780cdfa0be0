"""Train a flow on a density that is known up to its constant, by the reverse KL, and compare it with the exact one.

python -m experiments.flow.energy                                                # torus, about a minute
python -m experiments.flow.energy --target "torus correlated" --flow circular-spline
python -m experiments.flow.energy --target "sphere modes" --flow exponential --layers 6 --components 5
python -m experiments.flow.energy --target U1 --flow planar --annealing 5000 --steps 20000
"""

import dataclasses

from dlvm_jax import recipes
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.flow import energy_report

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.Common, recipes.EnergyFlow):
    """Train a flow on a density known up to its constant, compare it with the exact one, and write a report with pictures."""

    eval_samples: int = setting(20_000, "samples for the evaluation", at_least=2)


def run(config: Config) -> dict | None:
    """One experiment from its settings to its report: its result."""
    return common.experiment(config, recipes.EnergyFlow, energy_report.evaluate_and_write, "flow")


if __name__ == "__main__":
    common.main(run, Config, __doc__)
