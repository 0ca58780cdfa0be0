"""What a recipe is: the settings of a model by name, and how a model is built from them for given data.

A recipe knows nothing of optimisers, files or command lines.  What it must measure on the training data (pseudo-inputs,
standard deviations, frequencies of levels) it returns as `constants`, which a run saves: with a recipe, a `Spec` and these the
model is built again without the data.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from dlvm_jax.data import Data, Spec
from dlvm_jax.models.density import Density
from dlvm_jax.models.spaces import check_numbers
from dlvm_jax.settings import Settings

__all__ = ["Constants", "Model", "Recipe", "checked_batch", "examples_of"]

Constants = dict[str, np.ndarray]


class Model(NamedTuple):
    """A model ready for training and use; all are pure functions.  A batch is x, or (x, labels) where `labels` is true.

    A model with `variables`, which train without gradient, takes as params the pair (parameters, variables), everywhere.  Its
    objective returns the variables of the next step as metrics["variables"], a tree of the same shapes and types.

    density:    its `Density`; None for a model without a log-density (an autoencoder)
    init:       (key) -> params, of a model with variables the parameters alone
    objective:  (params, key, batch, step) -> (loss, metrics), what training descends, of x or (x, context)
    validation: the same for held-out data, without warm-up

    and, where it has them:
    parts:      what the family's reports and diagnostics look at
    encode:     (params, x or (x, context)) -> codes;  decode: (params, z or (z, context)) -> the mean of x
    split:      (batch) -> x or (x, context);  merge: (x, context) -> whole examples, for pictures
    labels:     whether it is conditioned on labels, so that training takes those of the data too
    part:       whether it is conditioned on a part of each example, which `split` cuts off
    adapt:      (params, x) -> params, set once by the first examples (data-dependent initialisation)
    solve:      (key, x) -> params in closed form from all training examples, instead of training
    score:      (params) -> {"score", ...}, lower is better, of a model that is trained without data
    variables:  (key) -> a tree of floating-point arrays: running means, singular vectors, code books
    """

    density: Density | None
    init: Callable
    objective: Callable
    validation: Callable
    parts: Any = None
    encode: Callable | None = None
    decode: Callable | None = None
    split: Callable = lambda batch: batch
    merge: Callable = lambda x, context: x
    labels: bool = False
    part: bool = False
    adapt: Callable | None = None
    solve: Callable | None = None
    score: Callable | None = None
    variables: Callable | None = None

    def params(self, key: jax.Array) -> Any:
        """The params that training starts from: those of `init`, with the variables where it has them."""
        if self.variables is None:
            return self.init(key)
        key_init, key_variables = jax.random.split(key)
        return self.init(key_init), self.variables(key_variables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """The settings of a model.

    training: values of `train.TrainConfig` that this family is usually trained with, instead of its defaults
    after_training: settings that only matter for a trained model; they may change when a run goes on
    any_scale: whether it is right for real data of any size, as a model in closed form is and a network is not
    """

    training: ClassVar[Mapping[str, Any]] = {}
    after_training: ClassVar[tuple[str, ...]] = ()
    any_scale: ClassVar[bool] = False

    @property
    def transform(self) -> str | None:
        """The transformation of raw data that suits these settings (a name in `data.TRANSFORMS`), None for the set's usual."""
        return None

    @property
    def objective_warm_up(self) -> int:
        """Steps until the objective no longer changes; early stopping counts from there."""
        return 0

    def training_for(self, spec: Spec) -> Mapping[str, Any]:
        """How this model is usually trained on data of a spec: values of `train.TrainConfig`."""
        return self.training

    def own_spec(self, batch_size: int) -> Spec | None:
        """The spec of a model that is trained without data; None: the data say it."""
        return None

    def held_out(self, examples: Any) -> Any:
        """What validation is computed on, of the held-out examples x or (x, labels); None: there is no validation."""
        return examples

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""

    def constants(self, data: Data, seed: int) -> Constants:
        """What the model needs to know of the training data; deterministic given the seed."""
        return {}

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec.  Raises ValueError for settings that are impossible, or do not fit."""
        raise ValueError(f"{type(self).__name__} does not say how its model is built")

    def as_json(self) -> dict[str, Any]:
        """The recipe as JSON: its name (with its module, of one outside of this package) and its settings."""
        kind = type(self)
        own = kind.__module__.startswith("dlvm_jax.recipes.")
        return {"recipe": kind.__name__ if own else f"{kind.__module__}:{kind.__name__}", **self.as_dict()}


def examples_of(model: Model, x: Any, labels: Any = None) -> Any:
    """What a model takes of data: x, or (x, labels) where it is conditioned on them; ValueError where they are missing."""
    if not model.labels:
        return x
    if labels is None:
        raise ValueError("this model is conditioned on labels, and none were given; give (x, labels)")
    return x, labels


def checked_batch(model: Model, spec: Spec, batch: Any) -> Any:
    """A batch, x or (x, labels), for a model of data of a spec, its labels left out where the model takes none.

    Raises ValueError, in one line, for examples of another shape, and for labels that are missing, too few or unknown.
    """
    x, labels = batch if isinstance(batch, tuple) else (batch, None)
    if tuple(x.shape[x.ndim - len(spec.event_shape) :]) != spec.event_shape:
        raise ValueError(
            f"this model is of examples of shape {spec.event_shape}, got an array of shape {x.shape}"
        )
    if not model.labels:
        return x
    _, labels = examples_of(model, x, labels)
    check_numbers(labels, "labels")
    labels = labels if hasattr(labels, "shape") else np.asarray(labels)
    if labels.shape != x.shape[: x.ndim - len(spec.event_shape)]:
        raise ValueError(
            f"labels are one integer for each example, got shape {labels.shape} for examples {x.shape}"
        )
    if not isinstance(labels, Tracer) and spec.classes is not None and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= spec.classes:
            raise ValueError(f"labels lie between 0 and {spec.classes - 1}, got {low} to {high}")
    return x, labels
