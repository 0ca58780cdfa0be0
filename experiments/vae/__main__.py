"""Train a variational autoencoder, evaluate it on held-out data, and write a report with pictures.

python -m experiments.vae                                   # embedded digits, under a minute
python -m experiments.vae --data mnist --latent-dim 20 --epochs 50
"""

import dataclasses

from dlvm_jax import recipes
from dlvm_jax.settings import setting
from experiments import run as common
from experiments.vae import report

__all__ = ["Config", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.VAE):
    """Train a variational autoencoder, evaluate it on the test set, and write a report with pictures."""

    eval_samples: int = setting(500, "importance samples of each test example", at_least=1)
    ais: int | None = setting(
        None,
        "also evaluate by annealed importance sampling with so many temperatures (a few thousand for a fair "
        "estimate)",
        at_least=1,
    )
    ais_limit: int = setting(100, "test examples of ais", at_least=1)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.ais and (self.prior in ("sphere", "hyperbolic", "implicit") or self.condition):
            raise ValueError("ais anneals an exact prior on R^M, without a condition; leave it out")


def run(config: Config) -> None:
    """One experiment from its settings to its report."""
    common.experiment(config, recipes.VAE, report.evaluate_and_write, "vae")


if __name__ == "__main__":
    common.main(run, Config, __doc__)
