"""A trained model: what `fit` and `load` give."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlvm_jax.data import Spec
from dlvm_jax.functional.numerics import as_integer
from dlvm_jax.models.density import join
from dlvm_jax.models.objectives import unpack
from dlvm_jax.models.spaces import REALS, check_numbers, check_points
from dlvm_jax.recipes.base import Model, Recipe, checked_batch
from dlvm_jax.train.config import TrainConfig

__all__ = ["Fitted"]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained model.

    recipe, spec, constants: what it was built from;  model: its pure functions;  config: how it was trained
    per_seed: the params of each seed, of the best checkpoint, that of `step`;  folder: the run's

    The params of a model with variables are the pair (parameters, variables).
    Data are as the model sees them (`Data.test`): x, or (x, labels) for a model that is conditioned on labels.
    """

    recipe: Recipe
    spec: Spec
    constants: Mapping[str, np.ndarray]
    model: Model
    config: TrainConfig
    per_seed: tuple[Any, ...]
    step: int
    folder: Path

    @property
    def params(self) -> Any:
        """The params of the first seed."""
        return self.per_seed[0]

    def of_seed(self, number: int) -> "Fitted":
        """The same with the parameters of one seed alone."""
        return dataclasses.replace(
            self,
            per_seed=(self.per_seed[number],),
            config=dataclasses.replace(self.config, seeds=(self.config.seeds[number],)),
        )

    def sample(self, key: jax.Array, count: int = 1, given: Any = None) -> jax.Array:
        """Draws of p(x): [count, *event].

        given: what a conditional model is conditioned on, labels [B] or whole examples [B, ...]; then [count, B, *event]
        """
        if as_integer(count, "the number of samples") < 0:
            raise ValueError(f"the number of samples is not negative, got {count}")
        context = self._context(given)
        x, _ = self._density("samples").sample(self.params, key, context, (count,))
        return x if context is None else self.model.merge(x, context)

    def log_prob(self, key: jax.Array | None, x: Any) -> jax.Array:
        """log p(x) in nats, [B]; of a density of kind "weight" or "bound" an estimate or a bound, which uses the key."""
        density, (x, context) = self._density("log-densities"), unpack(self._inside(x))
        return density.log_prob(self.params, key, x, context)

    def encode(self, x: Any, key: jax.Array | None = None) -> jax.Array:
        """The code of x: the posterior's mean, or a draw with a key; of a flow its latent point."""
        if self.model.encode is None:
            raise ValueError(f"a model of {type(self.recipe).__name__} has no encoder")
        return self.model.encode(self.params, self._inside(x), key)

    def decode(self, z: Any, given: Any = None) -> jax.Array:
        """The mean of p(x|z); of a flow the point of z.  given: as of `sample`, as many as z."""
        if self.model.decode is None:
            raise ValueError(f"a model of {type(self.recipe).__name__} has no decoder")
        context = self._context(given)
        if not isinstance(z, Tracer):
            z = np.atleast_1d(z)
            check_points(REALS, z, "the codes")
        x = self.model.decode(self.params, join(jnp.asarray(z), context))
        return x if context is None else self.model.merge(x, context)

    def reconstruct(self, x: Any, key: jax.Array | None = None) -> jax.Array:
        """`decode` of `encode`: [B, *event]."""
        _, context = unpack(self._split(x))
        z = self.encode(x, key)
        decoded = self.model.decode(self.params, join(z, context))
        return decoded if context is None else self.model.merge(decoded, context)

    def _density(self, what: str) -> Any:
        if self.model.density is None:
            raise ValueError(f"a model of {type(self.recipe).__name__} has no density, so no {what}")
        return self.model.density

    def _inside(self, batch: Any) -> Any:
        """The batch as the model takes it; ValueError, where it is not traced, for values outside of the density's space."""
        batch = self._split(batch)
        x, _ = unpack(batch)
        if not isinstance(x, Tracer):
            check_points(self.model.density.space if self.model.density else REALS, x, "x")
        return batch

    def _split(self, batch: Any) -> Any:
        x, labels = batch if isinstance(batch, tuple) else (batch, None)
        check_numbers(x, "x")
        if labels is not None:
            check_numbers(labels, "labels")
        x = jnp.asarray(x)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
        batch = x if labels is None else (x, jnp.asarray(labels))
        return self.model.split(checked_batch(self.model, self.spec, batch))

    def _context(self, given: Any) -> Any:
        if not (self.model.labels or self.model.part):
            if given is not None:
                raise ValueError("this model is unconditional; leave `given` out")
            return None
        if given is None:
            what = "labels" if self.model.labels else "examples whose known part is given"
            raise ValueError(f"this model is conditional; give {what} (given=...)")
        if self.model.labels:
            given = jnp.zeros((len(given), *self.spec.event_shape)), given
        return unpack(self._split(given))[1]
