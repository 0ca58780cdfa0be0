"""Autoencoders: plain, sparse, denoising and contractive, by name."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from dlvm_jax.data import Spec
from dlvm_jax.functional import autoencoding
from dlvm_jax.models import autoencoder
from dlvm_jax.models.density import Net
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.base import Model, Recipe
from dlvm_jax.recipes.networks import DTYPES, NETS
from dlvm_jax.settings import choice, setting

__all__ = ["CORRUPTIONS", "KINDS", "Autoencoder"]


class Kind(NamedTuple):
    """What is added to the squared error, by name.

    options: (recipe, event_ndim) -> those of `models.autoencoder.reconstruction`;  decoder: (recipe, event_shape) -> Net
    """

    options: Callable[["Autoencoder", int], dict[str, Any]]
    help: str
    decoder: Callable[["Autoencoder", tuple[int, ...]], Net]
    uses: tuple[str, ...] = ()


def _mirror(recipe, event_shape):
    return networks.network(recipe, (recipe.latent_dim,), event_shape, inwards=False)


def _atoms(recipe, event_shape):
    return autoencoder.dictionary(recipe.latent_dim, event_shape)


def _sparse(recipe, event_ndim):
    return {
        "penalty": lambda encode, x: autoencoding.sparse_penalty(encode(x)),
        "weight": recipe.weight,
    }


def _contractive(recipe, event_ndim):
    return {
        "penalty": partial(autoencoding.contractive_penalty, event_ndim=event_ndim),
        "weight": recipe.weight,
    }


KINDS = {
    "plain": Kind(lambda recipe, event_ndim: {}, "nothing is added", _mirror),
    "sparse": Kind(
        _sparse, "the l1 norm of the code, and a decoder of atoms of norm one", _atoms, ("weight",)
    ),
    "denoising": Kind(lambda recipe, event_ndim: {"corrupt": recipe.corrupt}, "noise on the input", _mirror),
    "contractive": Kind(_contractive, "the encoder's Jacobian", _mirror, ("weight",)),
}


class Corruption(NamedTuple):
    """Noise by name: `apply(key, x, noise) -> x~`."""

    apply: Callable[[jax.Array, jax.Array, float], jax.Array]
    help: str


CORRUPTIONS = {
    "gaussian": Corruption(autoencoding.gaussian_corruption, "added to each element"),
    "masking": Corruption(autoencoding.masking_corruption, "elements are set to zero"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder(Recipe):
    """An autoencoder of real values, or of grey levels on [0, 1], trained by the squared error. It has no density."""

    kind: str = choice("plain", KINDS, "what is added to the squared error")
    latent_dim: int = setting(8, "dimension of the code", at_least=1)
    net: str = choice("mlp", NETS, "encoder and decoder")
    hidden: tuple[int, ...] = setting(
        (300,), "widths of the hidden layers (channels for conv), from the data inwards", at_least=1
    )
    weight: float = setting(0.1, "weight of the penalty", at_least=0)
    corruption: str = choice(
        "gaussian",
        CORRUPTIONS,
        "noise that the denoising kind learns to remove, and that others are tested with",
    )
    noise: float = setting(
        0.3, "standard deviation of the gaussian noise, or rate of the masking noise", at_least=0
    )
    dtype: str = choice("float32", DTYPES, "compute type of the networks; the rest stays float32")

    training: ClassVar[Mapping[str, Any]] = {"evaluations": 20}

    @property
    def transform(self) -> str:
        """Grey levels are brought to [0, 1]."""
        return "scaled"

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if not self.hidden:
            raise ValueError(f"hidden needs at least one positive width, got {self.hidden}")
        if self.corruption == "masking" and self.noise > 1:
            raise ValueError(f"noise is a rate in [0, 1] where corruption='masking', got {self.noise}")

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for data that are no real values."""
        if spec.discrete:
            raise ValueError(
                f"an autoencoder here is of real values, the protocol {spec.protocol!r} has {spec.levels} integer levels; "
                "use the protocol 'scaled', of a set of grey levels"
            )
        networks.check_images(self.net, spec)

    def corrupt(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """The noise of these settings on examples."""
        return CORRUPTIONS[self.corruption].apply(key, x, self.noise)

    def parts(self, event_shape: tuple[int, ...]) -> autoencoder.Autoencoder:
        """Encoder and decoder of examples of a shape."""
        encoder = networks.network(self, event_shape, (self.latent_dim,))
        return autoencoder.autoencoder(encoder, KINDS[self.kind].decoder(self, event_shape), len(event_shape))

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The autoencoder for data of a spec; `parts` is its `models.autoencoder.Autoencoder`."""
        self.check()
        self.check_data(spec)
        parts = self.parts(spec.event_shape)
        objective = autoencoder.reconstruction(parts, **KINDS[self.kind].options(self, parts.event_ndim))
        return Model(
            None,
            parts.init,
            objective,
            objective,
            parts,
            lambda params, x, key=None: parts.encode(params, x),
            parts.decode,
        )
