"""A VQ-VAE of spectrograms whose decoder is given the speaker, as a recipe."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from dlvm_jax import recipes
from dlvm_jax.recipes.vae_parts import LIKELIHOODS
from dlvm_jax.recipes.vq_vae import LABEL, QUANTISERS
from dlvm_jax.settings import choice, setting

__all__ = ["Voice"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice(recipes.VQVAE):
    """A VQ-VAE with other defaults: its codes should say what is said, and not by whom.

    The encoder does not see how loud a band is in the whole of a recording, which tells the speaker (Chou et al. 2019).
    """

    quantiser: str = choice("fsq", QUANTISERS, "what the encoder's vectors are put on")
    levels: tuple[int, ...] = setting((5, 5, 5), "levels of each number of a code, of fsq", at_least=2)
    width: int = setting(64, "channels of the layers", at_least=1)
    likelihood: str | None = choice("fixed-normal", LIKELIHOODS, "p(spectrogram | codes, speaker)")
    standardise: bool = setting(True, "the encoder sees each band with mean 0 and deviation 1")
    condition: str | None = choice("label", LABEL, "what the decoder is given besides the codes: the speaker")

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 2000,
        "batch_size": 50,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warm_up": 0.02,
    }

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that do not go together."""
        super().check()
        if self.condition is None:
            raise ValueError("without condition='label' no speaker can be asked for; leave it out")
