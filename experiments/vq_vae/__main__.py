"""Train a VQ-VAE under the uniform prior of its codes, then an autoregressive prior of them, and compare the bounds.

python -m experiments.vq_vae                                                     # embedded digits
python -m experiments.vq_vae --data mnist --codes 128 --width 64 --prior-width 64
python -m experiments.vq_vae --quantiser fsq --levels 8 5 5                      # no code book
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from dlvm_jax import recipes
from dlvm_jax.recipes.autoregressive import NETS
from dlvm_jax.settings import choice, setting
from experiments import run as common
from experiments.vq_vae import prior, report

__all__ = ["Config", "run"]

PRIORS = {name: entry.help for name, entry in NETS.items()}  # whose settings are no settings of the VQ-VAE


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.OnData, recipes.VQVAE):
    """Train a VQ-VAE and a prior of its codes; the bound under the uniform and the learned prior, and pictures of both."""

    prior: str | None = choice(
        None, PRIORS, "network of the prior of codes, by default pixelcnn of images, else made"
    )
    prior_width: int = setting(64, "channels of the prior's network, or width of its layers", at_least=1)
    prior_depth: int = setting(2, "layers of the prior's network", at_least=1)
    prior_steps: int = setting(500, "training steps of the prior", at_least=1)

    eval_samples: ClassVar[int] = 1  # the bound is not random


def run(config: Config) -> Mapping[str, Any] | None:
    """One experiment from its settings to its report: its result."""
    return common.experiment(config, recipes.VQVAE, report.evaluate_and_write, "vq_vae", more=prior.fit_prior)


if __name__ == "__main__":
    common.main(run, Config, __doc__)
