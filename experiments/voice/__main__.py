"""Train a VQ-VAE of spoken digits whose decoder is given the speaker, let each speaker say what others said, and judge it.

python -m experiments.voice                                          # the recordings are in the folder that DLVM_DATA names
python -m experiments.voice --quantiser averages --codes 256         # a code book
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from dlvm_jax import data as datasets
from dlvm_jax.data import speech
from experiments import run as common
from experiments.voice import report
from experiments.voice.recipe import Voice

__all__ = ["Config", "run"]


@common.with_training_of
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.Common, Voice):
    """Train a VQ-VAE of spoken digits, convert test recordings to each other speaker, and write sounds, pictures and a report."""

    eval_samples: ClassVar[int] = 1  # the bound is not random


def run(config: Config) -> Mapping[str, Any] | None:
    """One experiment from its settings to its report: its result."""
    load = lambda config, recipe: datasets.load(speech.NAME)
    return common.experiment(config, Voice, report.evaluate_and_write, "voice", load)


if __name__ == "__main__":
    common.main(run, Config, __doc__)
