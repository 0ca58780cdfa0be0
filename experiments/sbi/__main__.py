"""Learn the posterior of a simulator from simulations, and compare it with the reference posterior of an observation.

python -m experiments.sbi                                                  # NPE of two_moons from 10,000 simulations
python -m experiments.sbi --task slcp --method nle --flow autoregressive --observation 3
python -m experiments.sbi --rounds 4                                       # simulations where the observation's parameters are
python -m experiments.sbi --method npe --embedding mlp --repeats 5         # five independent observations
python -m experiments.sbi --seeds 0 1 2                                    # the mixture of three posteriors
python -m experiments.sbi --task my_module:make                            # make() returns a Simulator
"""

import dataclasses

from dlvm_jax import recipes
from dlvm_jax.data import simulators
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.sbi import report, rounds

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
    calibrated: int = setting(
        200, "further simulations of the tests of calibration, which several rounds leave out", at_least=20
    )
    rounds: int = setting(
        1,
        "rounds that share the simulations, each where the one before has found the observation's parameters",
        at_least=1,
    )

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.method == "nre" and len(self.seeds) > 1:
            raise ValueError(f"method='nre' has no density to mix those of seeds={self.seeds}; give one seed")
        if self.simulations < 20 * self.rounds:
            raise ValueError(
                f"a round needs 20 simulations, got simulations={self.simulations} for rounds={self.rounds}"
            )


def run(config: Config) -> None:
    """One experiment from its settings to its report."""
    config.check()
    if config.rounds == 1:
        _run(config, lambda recipe: _simulated(config, recipe))
        return
    with common.run_folder(config, f"sbi-{config.task}") as root:
        _run(dataclasses.replace(config, out=root), lambda recipe: rounds.dataset(config, recipe, root))


def _simulated(config, recipe):
    return simulators.dataset(
        recipe.task, config.simulations, config.seeds[0], config.calibrated, recipe.repeats
    )


def _run(config, load):
    common.experiment(
        config, recipes.Posterior, report.evaluate_and_write, "sbi", lambda config, recipe: load(recipe)
    )


if __name__ == "__main__":
    common.main(run, Config, __doc__)
