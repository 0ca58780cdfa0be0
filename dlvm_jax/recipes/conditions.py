"""What a conditional VAE is given: the label, or some quadrants of the image (Sohn, Lee, Yan 2015, section 5.1)."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlvm_jax.data import Data, Spec
from dlvm_jax.settings import pick

__all__ = ["CONDITIONS", "LABEL", "Condition", "condition_of", "say_which_labels_are_missing"]


class Condition(NamedTuple):
    """How a batch of data becomes (x, context).

    event, context: their shapes (context: None for an unconditional model)
    labels, part: what the context is, the labels of the batch or a part of its examples
    split: (batch) -> (x, context), pure JAX;  merge: (x, context) -> whole examples, for pictures
    """

    event: tuple[int, ...]
    context: tuple[int, ...] | None = None
    labels: bool = False
    part: bool = False
    split: Callable = lambda batch: batch
    merge: Callable = lambda x, context: x


class Entry(NamedTuple):
    """A condition by name: `make(spec) -> Condition`."""

    make: Callable[[Spec], Condition]
    help: str


def _label(spec):
    if spec.classes is None:
        raise ValueError(f"condition='label' needs labels, and {spec.name} has none; leave it out")

    def split(batch):
        x, labels = batch
        labels = jnp.asarray(labels)
        if labels.shape != x.shape[: x.ndim - len(spec.event_shape)]:
            raise ValueError(
                f"labels are one integer for each example, got shape {labels.shape} for examples {x.shape}"
            )
        known = (labels >= 0) & (labels < spec.classes) & (labels == jnp.floor(labels))
        if not isinstance(known, Tracer) and not known.all():
            raise ValueError(f"labels are integers 0..{spec.classes - 1}, got {labels[~known].ravel()[0]}")
        one_hot = jax.nn.one_hot(labels.astype(jnp.int32), spec.classes, dtype=jnp.float32)
        return x, jnp.where(known[..., None], one_hot, jnp.nan)  # no vector that training never saw

    return Condition(spec.event_shape, (spec.classes,), True, False, split)


def _quadrants(count, spec):
    """The lower left quadrant is given, then the upper left one, then the upper right one; the rest is x."""
    if len(spec.event_shape) != 3:
        raise ValueError(
            f"quadrants are of images [H, W, C], and the examples of {spec.name} have shape {spec.event_shape}"
        )
    height, width, channels = spec.event_shape
    given = np.zeros((height, width), bool)
    given[height // 2 :, : width // 2] = True
    given[: height // 2, : width // 2] = count > 1
    given[: height // 2, width // 2 :] = count > 2
    seen, hidden = np.flatnonzero(given), np.flatnonzero(~given)

    def split(x):
        flat = x.reshape(*x.shape[:-3], height * width, channels)
        vector = lambda places: flat[..., places, :].reshape(*x.shape[:-3], -1)
        return vector(hidden), vector(seen)

    def merge(x, context):
        batch = jnp.broadcast_shapes(x.shape[:-1], context.shape[:-1])
        image = jnp.zeros((*batch, height * width, channels))
        image = image.at[..., hidden, :].set(x.reshape(*x.shape[:-1], -1, channels))
        image = image.at[..., seen, :].set(context.reshape(*context.shape[:-1], -1, channels))
        return image.reshape(*batch, height, width, channels)

    return Condition((len(hidden) * channels,), (len(seen) * channels,), False, True, split, merge)


CONDITIONS = {
    "label": Entry(_label, "the class"),
    "quadrants-1": Entry(partial(_quadrants, 1), "the lower left quadrant of the image"),
    "quadrants-2": Entry(partial(_quadrants, 2), "its left half"),
    "quadrants-3": Entry(partial(_quadrants, 3), "all but the lower right quadrant"),
}
LABEL = {"label": CONDITIONS["label"]}  # of models of whole images alone


def condition_of(name: str | None, spec: Spec) -> Condition:
    """The condition of a name for data of a spec; that of an unconditional model for None."""
    return Condition(spec.event_shape) if name is None else pick(CONDITIONS, name, "condition").make(spec)


def say_which_labels_are_missing(data: Data) -> None:
    """Warn of labels in the range of the data that no training example has: a model learns nothing of them."""
    classes = data.spec.classes
    if classes is None or data.train_labels is None:
        return
    missing = np.setdiff1d(np.arange(classes), data.train_labels)
    if missing.size:
        warnings.warn(
            f"no training example has the label {', '.join(map(str, missing[:10]))}{', ...' * (missing.size > 10)} "
            f"of 0..{classes - 1}: what the model gives for it is not learned",
            stacklevel=2,
        )
