"""Learn the posterior of a simulator from simulations, and compare it with the reference posterior of an observation.

python -m experiments.sbi                                                  # NPE of two_moons from 10,000 simulations
python -m experiments.sbi --task slcp --method nle --flow autoregressive --observation 3
python -m experiments.sbi --task my_module:make                            # make() returns a Simulator
"""

import dataclasses

from dlvm_jax import recipes
from dlvm_jax.data import simulators
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.sbi import report

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.Common, recipes.Posterior):
    """Learn a posterior from simulations, check its calibration, and compare it with the reference of an observation."""

    simulations: int = setting(10_000, "simulations of training and validation together", at_least=20)
    observation: int = setting(
        1, "number of the observation, of the published ones where they are there, else simulated", at_least=1
    )
    draws: int = setting(
        10_000, "draws of the posterior, which a classifier compares with the reference", at_least=100
    )
    calibrated: int = setting(200, "further simulations of the tests of calibration", at_least=20)


def run(config: Config) -> None:
    """One experiment from its settings to its report."""
    common.experiment(
        config,
        recipes.Posterior,
        report.evaluate_and_write,
        "sbi",
        load=lambda config, recipe: simulators.dataset(
            recipe.task, config.simulations, config.seeds[0], config.calibrated
        ),
    )


if __name__ == "__main__":
    common.main(run, Config, __doc__)
