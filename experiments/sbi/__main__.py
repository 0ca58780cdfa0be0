"""Learn the posterior of a simulator from simulations, and compare it with the reference posterior of an observation.

python -m experiments.sbi                                                  # NPE of two_moons from 10,000 simulations
python -m experiments.sbi --task slcp --method nle --flow autoregressive --observation 3
python -m experiments.sbi --method nle --sampling mcmc                     # chains, where resampling has few effective draws
python -m experiments.sbi --rounds 4                                       # simulations where the observation's parameters are
python -m experiments.sbi --method npe --embedding mlp --repeats 5         # five independent observations
python -m experiments.sbi --task cosmology --embedding pooled              # maps, beside those simulated from the posterior
python -m experiments.sbi --seeds 0 1 2                                    # the mixture of three posteriors
python -m experiments.sbi --task my_module:make                            # make() returns a Simulator
python -m experiments.sbi table --help                                     # the published benchmark, task by task
"""

import dataclasses
import sys

from dlvm_jax import recipes
from dlvm_jax.data import Data, simulators
from dlvm_jax.models import chains
from dlvm_jax.recipes.posterior import METHODS
from dlvm_jax.settings import choice, setting
from experiments import run as common
from experiments.sbi import report, rounds

__all__ = ["Config", "run", "simulated"]

SAMPLING = {
    "resampling": "draws of the prior by their weights",
    "mcmc": 'Markov chains by the no-U-turn sampler, needs the extra "mcmc"',
}


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
    sampling: str = choice("resampling", SAMPLING, "how the posterior of nle and nre is drawn from")
    calibrated: int = setting(
        200, "extra simulations for the tests of calibration; several rounds do not use them", at_least=20
    )
    rounds: int = setting(
        1,
        "rounds of simulating and learning, which share the simulations; each draws parameters from what the last one learned",
        at_least=1,
    )

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.method == "nre" and len(self.seeds) > 1:
            raise ValueError(f"method='nre' has no density to mix those of seeds={self.seeds}; give one seed")
        if self.sampling == "mcmc":
            if METHODS[self.method].direct:
                raise ValueError(
                    f"sampling='mcmc' is of method nle or nre, and draws of method={self.method!r} are independent; leave it out"
                )
            chains.package()
        if self.simulations < 20 * self.rounds:
            raise ValueError(
                f"a round needs 20 simulations, got simulations={self.simulations} for rounds={self.rounds}"
            )


def run(config: Config) -> None:
    """One experiment from its settings to its report."""
    config.check()
    if config.rounds == 1:
        _run(config, simulated)
        return
    with common.run_folder(config, f"sbi-{config.task}") as root:
        began = config.resume and (root / "model.json").exists()  # not where an earlier round was stopped
        last = dataclasses.replace(config, out=root, resume=began)
        _run(last, lambda _, recipe: rounds.dataset(config, recipe, root))


def simulated(config: Config, recipe: recipes.Posterior) -> Data:
    """The simulations of a run of one round."""
    return simulators.dataset(
        recipe.task, config.simulations, config.seeds[0], config.calibrated, recipe.repeats
    )


def _run(config, load):
    common.experiment(config, recipes.Posterior, report.evaluate_and_write, "sbi", load)


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        from experiments.sbi import table  # which imports this module

        common.main(table.run, table.Config, table.__doc__, sys.argv[2:])
    else:
        common.main(run, Config, __doc__)
