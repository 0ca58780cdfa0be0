"""VQ-VAEs: images, sequences of vectors, or vectors, as grids of codes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlvm_jax import nets
from dlvm_jax.data import Data, Spec
from dlvm_jax.models import density, spaces, vq_vae
from dlvm_jax.models.objectives import unpack
from dlvm_jax.models.vq_vae import Quantiser
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.recipes.conditions import LABEL, condition_of, say_which_labels_are_missing
from dlvm_jax.recipes.likelihoods import check_likelihood, likelihood_of, transform_of
from dlvm_jax.recipes.vae_parts import LIKELIHOODS
from dlvm_jax.settings import choice, setting

__all__ = ["QUANTISERS", "VQVAE"]


class QuantiserKind(NamedTuple):
    """What vectors are put on, by name.

    build: (recipe) -> the quantiser;  uses: settings that belong to it
    """

    build: Callable[["VQVAE"], Quantiser]
    help: str
    uses: tuple[str, ...]


QUANTISERS = {
    "averages": QuantiserKind(
        lambda recipe: vq_vae.averaged_book(
            recipe.codes, recipe.code_dim, recipe.commitment, recipe.gradient, recipe.decay, recipe.restart
        ),
        "a code book that follows moving averages",
        ("codes", "code_dim", "commitment", "gradient", "decay", "restart"),
    ),
    "gradient": QuantiserKind(
        lambda recipe: vq_vae.trained_book(recipe.codes, recipe.code_dim, recipe.commitment, recipe.gradient),
        "a code book that is trained",
        ("codes", "code_dim", "commitment", "gradient"),
    ),
    "fsq": QuantiserKind(
        lambda recipe: vq_vae.finite_scalars(recipe.levels),
        "finite scalar quantisation: a fixed grid, no book",
        ("levels",),
    ),
}
GRADIENTS = {
    "straight-through": "that of the code",
    "rotation": "turned with the vector, Fifty et al. 2024",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQVAE(Recipe):
    """A VQ-VAE (van den Oord et al. 2017) under the uniform prior of its codes; a second stage may learn another."""

    quantiser: str = choice("averages", QUANTISERS, "what the encoder's vectors are put on")
    codes: int = setting(64, "codes of the book", at_least=2)
    code_dim: int = setting(16, "numbers of a code", at_least=1)
    levels: tuple[int, ...] = setting((8, 8), "levels of each number of a code, of fsq", at_least=2)
    gradient: str = choice("straight-through", GRADIENTS, "gradient past the codes")
    commitment: float = setting(0.25, "weight of what holds vectors to their codes", at_least=0)
    decay: float = setting(0.99, "of the moving averages", at_least=0, below=1)
    restart: float = setting(
        0.1,
        "a code given fewer vectors than this share of the mean starts anew; 0: none",
        at_least=0,
        below=1,
    )
    halvings: int = setting(
        2, "halvings of an image, or sequence: 2 make a grid of a quarter of its sides", at_least=0
    )
    maps: int = setting(1, "codes at each place of an image, or sequence", at_least=1)
    places: int = setting(8, "codes of a vector", at_least=1)
    width: int = setting(32, "channels, or width of the layers", at_least=1)
    depth: int = setting(2, "residual blocks, or layers, of encoder and decoder", at_least=0)
    likelihood: str | None = choice(None, LIKELIHOODS, "p(x | codes), by default what suits the data")
    std: float = setting(1.0, "standard deviation of a fixed-normal likelihood")
    standardise: bool = setting(
        False, "the encoder sees each channel of an image, or sequence, with mean 0 and deviation 1"
    )
    condition: str | None = choice(None, LABEL, "what the decoder is given besides the codes")

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 1500,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warm_up": 0.02,
    }

    @property
    def transform(self) -> str | None:
        """What becomes of the data: integer levels or dequantised ones where the likelihood says so."""
        return transform_of(self.likelihood)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that do not go together."""
        super().check()
        if not self.levels:
            raise ValueError(
                "levels has a number for each number of a code, got none; give some, such as (8, 8)"
            )

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        check_likelihood(self.likelihood, spec)
        dataclasses.replace(self, likelihood=likelihood_of(self.likelihood, spec)).check()
        condition_of(self.condition, spec)
        sides = spec.event_shape[:-1]  # none of a vector
        if self.standardise and not sides:
            raise ValueError(f"standardise is of images and sequences, {spec.name} has vectors; leave it out")
        if any(side % 2**self.halvings for side in sides):
            fit = next(n for n in range(self.halvings)[::-1] if not any(side % 2**n for side in sides))
            kind = "images" if len(sides) == 2 else "sequences"
            raise ValueError(
                f"{kind} of {' x '.join(map(str, sides))} cannot be halved {self.halvings} times without a rest; "
                f"use halvings={fit}, or resize them"
            )

    def grid(self, spec: Spec) -> tuple[int, ...]:
        """The shape of an example's codes, those of a place beside each other: a vector, or of an image one of one channel."""
        sides = [side // 2**self.halvings for side in spec.event_shape[:-1]]
        if not sides:
            return (self.places,)
        return (*sides[:-1], self.maps * sides[-1], *(1,) * (len(sides) == 2))

    def constants(self, data: Data, seed: int) -> Constants:
        """None; labels that no example has are said."""
        if self.condition == "label":
            say_which_labels_are_missing(data)
        return {}

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec; `parts` is its `models.vq_vae.Parts`, and a code the numbers [*grid] of its codes."""
        self.check()
        self.check_data(spec)
        condition = condition_of(self.condition, spec)
        quantiser, grid = QUANTISERS[self.quantiser].build(self), self.grid(spec)
        dim = len(self.levels) if self.quantiser == "fsq" else self.code_dim
        codes = (*grid, dim)
        prior = vq_vae.uniform_codes(quantiser.levels, grid)
        decoder = self._decoder(spec, codes, condition.context)
        parts = vq_vae.Parts(self._encoder(spec, codes), quantiser, prior, decoder)
        objective = vq_vae.objective(parts)

        def encode(params, batch, key=None):
            return parts.encode(params, unpack(batch)[0]).index

        def decode(params, batch):
            index, context = unpack(batch)
            if not isinstance(index, Tracer):
                spaces.check_points(prior.space, np.asarray(index), "the codes")
            return parts.decode(params, jnp.asarray(index), context)

        return Model(
            vq_vae.vq_vae(parts),
            parts.init,
            objective,
            objective,
            parts,
            encode,
            decode,
            condition.split,
            condition.merge,
            condition.labels,
            variables=quantiser.init if quantiser.follow else None,
        )

    def _encoder(self, spec: Spec, codes: tuple[int, ...]) -> density.Net:
        event, axes = spec.event_shape, len(spec.event_shape) - 1
        if axes:
            module = nets.GridEncoder(self.width, self.halvings, self.depth, self.maps, codes[-1], axes)
        else:
            module = nets.MLP((self.width,) * self.depth, codes, 1)
        net = density.from_linen(module, (1, *event))
        return networks.scaled(_of_standardised(net, axes) if self.standardise else net, spec)

    def _decoder(
        self, spec: Spec, codes: tuple[int, ...], context: tuple[int, ...] | None
    ) -> density.Density:
        event, axes = spec.event_shape, len(spec.event_shape) - 1
        entry = LIKELIHOODS[likelihood_of(self.likelihood, spec)]
        distribution = entry.build(self, spec)
        raw = distribution.width - entry.shared
        if axes:
            out = event[-1], raw
            module = nets.GridDecoder(self.width, self.halvings, self.depth, self.maps, out, axes)
        else:
            module = nets.MLP((self.width,) * self.depth, (*event, raw), 2 if context is None else (2, 1))
        inputs = (1, *codes) if context is None else ((1, *codes), (1, *context))
        net = density.from_linen(module, inputs)
        return density.conditional(
            density.with_shared_scale(net) if entry.shared else net, distribution, event
        )


def _of_standardised(net: density.Net, axes: int) -> density.Net:
    """The network of examples whose channels have mean 0 and standard deviation 1 over their places; constant ones become 0."""
    over = tuple(range(-1 - axes, -1))

    def apply(params, x):
        centred = x - x.mean(over, keepdims=True)
        return net.apply(params, centred / jnp.sqrt(jnp.square(centred).mean(over, keepdims=True) + 1e-4))

    return density.Net(net.init, apply)
