"""Probabilistic PCA: in closed form, by EM, or by gradient ascent."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from dlvm_jax.data import Data, Spec
from dlvm_jax.data.dataset import blocks
from dlvm_jax.functional import linear_gaussian
from dlvm_jax.functional.numerics import draw_normal
from dlvm_jax.models import objectives
from dlvm_jax.models.ppca import em_objective, ppca
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.settings import choice, setting

__all__ = ["METHODS", "PPCA"]


class Method(NamedTuple):
    """How the parameters are found: `training(examples)` gives values of `train.TrainConfig`."""

    help: str
    training: Any


METHODS = {
    "closed": Method("closed form", lambda examples: {"batch_size": min(100, examples)}),
    "em": Method(
        "EM on all of the training set",
        lambda examples: {
            "optimiser": "sgd",
            "learning_rate": 1.0,
            "batch_size": examples,
            "steps": 1000,
            "evaluations": 50,
        },
    ),
    "gradient": Method(
        "Adam on minibatches",
        lambda examples: {"steps": 10_000, "learning_rate": 3e-3, "schedule": "cosine", "evaluations": 50},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPCA(Recipe):
    """Probabilistic PCA (Tipping & Bishop 1999): z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), with an exact density."""

    latent_dim: int = setting(10, "dimension of the latent space", at_least=1)
    method: str = choice("closed", METHODS, "how it is fitted")

    any_scale: ClassVar[bool] = True

    @property
    def transform(self) -> str:
        """A density of real values: grey levels on [0, 1]."""
        return "scaled"

    def training_for(self, spec: Spec) -> Mapping[str, Any]:
        """That of the method."""
        return METHODS[self.method].training(spec.examples)

    def held_out(self, examples: Any) -> None:
        """Nothing: the maximum of the likelihood is wanted, so the last checkpoint is kept."""
        return None

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        if spec.discrete:
            raise ValueError(
                f"pPCA is a density of real values, the protocol {spec.protocol!r} is discrete; "
                "use protocol=scaled or protocol=dequantised"
            )
        size = math.prod(spec.event_shape)
        if self.latent_dim >= size:
            raise ValueError(
                f"latent_dim must be below the {size} elements of an example, got {self.latent_dim}"
            )

    def constants(self, data: Data, seed: int) -> Constants:
        """The mean of the training examples, where mu starts."""
        if self.method == "closed":
            return {}
        key, total = jax.random.key(seed), np.zeros(math.prod(data.spec.event_shape))
        for number, block in enumerate(blocks(data.train)):
            seen = np.asarray(data.preprocess(jax.random.fold_in(key, number), block), np.float64)
            total += seen.reshape(len(seen), -1).sum(0)
        return {"mean": total / len(data.train)}

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """pPCA for data of a spec; `parts` is its density, whose parameters are a `LinearGaussian`."""
        self.check()
        self.check_data(spec)
        density = ppca(spec.event_shape, self.latent_dim, constants.get("mean", 0.0))
        likelihood = objectives.negative_log_likelihood(density)
        flat = lambda x: x.reshape(*x.shape[: x.ndim - len(spec.event_shape)], -1)

        def encode(params, x, key=None):
            mean, scale_tril = linear_gaussian.posterior(params, flat(x))
            if key is None:
                return mean
            return mean + draw_normal(key, mean.shape, mean.dtype) @ scale_tril.T

        def decode(params, z):
            return (z @ params.w.T + params.mean).reshape(*z.shape[:-1], *spec.event_shape)

        return Model(
            density,
            density.init,
            em_objective(spec.event_shape) if self.method == "em" else likelihood,
            likelihood,
            density,
            encode,
            decode,
            solve=self._solve if self.method == "closed" else None,
        )

    def _solve(self, key: jax.Array, x: Any) -> linear_gaussian.LinearGaussian:
        """The maximum of the likelihood, computed in double precision."""
        rows: Any = np.asarray(x, np.float64).reshape(len(x), -1)
        with jax.enable_x64(True):
            found = linear_gaussian.ppca_fit(rows, self.latent_dim)
            return jax.tree.map(np.asarray, found)  # double also outside
