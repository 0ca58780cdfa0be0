"""DRAW: images painted in glimpses, with attention or without."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from dlvm_jax import nets
from dlvm_jax.data import Spec
from dlvm_jax.models import density, draw, objectives
from dlvm_jax.recipes.base import Model, Recipe
from dlvm_jax.recipes.likelihoods import check_likelihood, likelihood_of, transform_of
from dlvm_jax.recipes.vae_parts import LIKELIHOODS
from dlvm_jax.settings import choice, setting

__all__ = ["DRAW"]

# The canvas has every raw parameter of every element, and none that they share.
OWN_SCALES = {name: entry for name, entry in LIKELIHOODS.items() if not entry.shared}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DRAW(Recipe):
    """DRAW (Gregor et al. 2015), trained by the ELBO with the analytic KL of each glimpse."""

    latent_dim: int = setting(10, "numbers of a glimpse's latent vector", at_least=1)
    glimpses: int = setting(8, "steps in which an image is painted", at_least=1)
    width: int = setting(64, "width of the two LSTMs", at_least=1)
    read: int | None = setting(
        None, "side of the patch that attention reads; without it the whole image is read", at_least=1
    )
    write: int | None = setting(
        None, "side of the patch that attention writes; without it the whole canvas is written", at_least=1
    )
    likelihood: str | None = choice(None, OWN_SCALES, "p(x|canvas), by default what suits the data")
    std: float = setting(1.0, "standard deviation of a fixed-normal likelihood")

    training: ClassVar[Mapping[str, Any]] = {"learning_rate": 3e-3, "clip": 5.0}

    @property
    def transform(self) -> str | None:
        """What becomes of the data: integer levels or dequantised ones where the likelihood says so."""
        return transform_of(self.likelihood)

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        if len(spec.event_shape) != 3:
            raise ValueError(
                f"DRAW paints images [H, W, C], and the examples of {spec.name} have shape {spec.event_shape}"
            )
        check_likelihood(self.likelihood, spec)
        dataclasses.replace(self, likelihood=likelihood_of(self.likelihood, spec)).check()

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """DRAW for data of a spec; `parts` is its `models.draw.Parts`, and a code the latent vectors of all glimpses."""
        self.check()
        self.check_data(spec)
        distribution = LIKELIHOODS[likelihood_of(self.likelihood, spec)].build(self, spec)
        event = spec.event_shape
        state, image = ((1, self.width), (1, self.width)), (1, *event)
        encoder = nets.DrawEncoder(self.width, (self.latent_dim, 2), self.read)
        decoder = nets.DrawDecoder(self.width, (*event, distribution.width), self.write)
        parts = draw.Parts(
            density.from_linen(encoder, state, (1, self.width), image, image),
            density.from_linen(decoder, state, (1, self.latent_dim)),
            distribution,
            event,
            self.latent_dim,
            self.width,
            self.glimpses,
        )
        model = draw.draw(parts)
        objective = objectives.negative_elbo(draw.draw(parts, kl="analytic"))

        def encode(params, x, key=None):
            z = jnp.moveaxis(parts.infer(params, key, x)[0], 0, -2)
            return z.reshape(*z.shape[:-2], -1)

        def decode(params, z):
            each = z.reshape(*z.shape[:-1], self.glimpses, self.latent_dim)
            return parts.mean(parts.paint(params, jnp.moveaxis(each, -2, 0))[-1])

        return Model(model, parts.init, objective, objective, parts, encode, decode)
