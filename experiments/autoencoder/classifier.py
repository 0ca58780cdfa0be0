"""A classifier on the codes of an autoencoder, as a recipe."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from dlvm_jax import nets, recipes
from dlvm_jax.data import Spec
from dlvm_jax.models import autoencoder, density
from dlvm_jax.recipes import Model
from dlvm_jax.settings import setting
from dlvm_jax.train.fitted import Fitted

__all__ = ["Classifier", "on_encoder_of"]

HEAD = (100,)  # widths of the layers between code and logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(recipes.Autoencoder):
    """The encoder of an autoencoder with a head of one hidden layer; its `parts` are a `models.autoencoder.Classifier`."""

    fine_tune: bool = setting(True, "train the encoder too, not the head alone")

    training: ClassVar[Mapping[str, Any]] = {"evaluations": 20}

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for data without labels."""
        super().check_data(spec)
        if spec.classes is None:
            raise ValueError(f"a classifier needs labels, and {spec.name} has none")

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The classifier for data of a spec."""
        self.check()
        self.check_data(spec)
        head = density.from_linen(nets.MLP(HEAD, (spec.classes,)), (1, self.latent_dim))
        parts = autoencoder.classifier(self.parts(spec.event_shape), head)
        objective = autoencoder.classification(parts, self.fine_tune)
        return Model(None, parts.init, objective, objective, parts, labels=True)


def on_encoder_of(fitted: Fitted, recipe: Classifier, spec: Spec) -> Fitted:
    """The classifier before training with the encoder of a trained autoencoder; of the first seed.

    Its head starts as that of a classifier which is trained from scratch with the same seed.
    """
    model, seed = recipe.build(spec, {}), fitted.config.seeds[0]
    key_init, _ = jax.random.split(jax.random.key(seed))  # as the engine does
    params = {**jax.jit(model.init)(key_init), "encoder": fitted.params["encoder"]}
    return dataclasses.replace(fitted.of_seed(0), recipe=recipe, spec=spec, model=model, per_seed=(params,))
