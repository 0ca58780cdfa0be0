"""VQ-VAEs: images, or vectors, as grids of codes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlvm_jax import nets
from dlvm_jax.data import Spec
from dlvm_jax.models import density, spaces, vq_vae
from dlvm_jax.models.vq_vae import Quantiser
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.base import Model, Recipe
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
    halvings: int = setting(2, "halvings of an image: 2 make a grid of a quarter of its sides", at_least=0)
    maps: int = setting(1, "codes at each place of an image", at_least=1)
    places: int = setting(8, "codes of an example that is no image", at_least=1)
    width: int = setting(32, "channels, or width of the layers", at_least=1)
    depth: int = setting(2, "residual blocks, or layers, of encoder and decoder", at_least=0)
    likelihood: str | None = choice(None, LIKELIHOODS, "p(x | codes), by default what suits the data")
    std: float = setting(1.0, "standard deviation of a fixed-normal likelihood")

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
        if len(spec.event_shape) == 3:
            height, width, _ = spec.event_shape
            if height % 2**self.halvings or width % 2**self.halvings:
                fit = next(n for n in range(self.halvings)[::-1] if not (height % 2**n or width % 2**n))
                raise ValueError(
                    f"images of {height} x {width} cannot be halved {self.halvings} times without a rest; use halvings={fit}, "
                    "or resize them"
                )

    def grid(self, spec: Spec) -> tuple[int, ...]:
        """The shape of an example's codes: a vector, or an image of one channel with the codes of a place beside each other."""
        if len(spec.event_shape) != 3:
            return (self.places,)
        height, width, _ = spec.event_shape
        return height // 2**self.halvings, self.maps * width // 2**self.halvings, 1

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec; `parts` is its `models.vq_vae.Parts`, and a code the numbers [*grid] of its codes."""
        self.check()
        self.check_data(spec)
        quantiser, grid = QUANTISERS[self.quantiser].build(self), self.grid(spec)
        dim = len(self.levels) if self.quantiser == "fsq" else self.code_dim
        prior = vq_vae.uniform_codes(quantiser.levels, grid)
        parts = vq_vae.Parts(self._encoder(spec, grid, dim), quantiser, prior, self._decoder(spec, grid, dim))
        objective = vq_vae.objective(parts)

        def decode(params, index):
            if not isinstance(index, Tracer):
                spaces.check_points(prior.space, np.asarray(index), "the codes")
            return parts.decode(params, jnp.asarray(index))

        return Model(
            vq_vae.vq_vae(parts),
            parts.init,
            objective,
            objective,
            parts,
            lambda params, x, key=None: parts.encode(params, x).index,
            decode,
            variables=quantiser.init if quantiser.follow else None,
        )

    def _encoder(self, spec: Spec, grid: tuple[int, ...], dim: int) -> density.Net:
        event = spec.event_shape
        if len(event) == 3:
            module = nets.GridEncoder(self.width, self.halvings, self.depth, self.maps, dim)
        else:
            module = nets.MLP((self.width,) * self.depth, (*grid, dim), len(event))
        return networks.scaled(density.from_linen(module, (1, *event)), spec)

    def _decoder(self, spec: Spec, grid: tuple[int, ...], dim: int) -> density.Density:
        event = spec.event_shape
        entry = LIKELIHOODS[likelihood_of(self.likelihood, spec)]
        distribution = entry.build(self, spec)
        raw = distribution.width - entry.shared
        if len(event) == 3:
            module = nets.GridDecoder(self.width, self.halvings, self.depth, self.maps, (event[-1], raw))
        else:
            module = nets.MLP((self.width,) * self.depth, (*event, raw), 2)
        net = density.from_linen(module, (1, *grid, dim))
        return density.conditional(
            density.with_shared_scale(net) if entry.shared else net, distribution, event
        )
