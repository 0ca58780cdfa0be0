"""What a conditional VAE is told: the label, or some quadrants of the image (Sohn, Lee, Yan 2015, section 5.1)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["CONDITIONS", "Condition", "make"]

CONDITIONS = ("label", "quadrants-1", "quadrants-2", "quadrants-3")


class Condition(NamedTuple):
    """How a data set becomes pairs (x, context).

    event, context: their shapes;  arrays(raw, labels): what the engine trains on, or what is evaluated, before `split`
    split(batch) -> (x, context), pure JAX;  merge(x, context) -> images, for pictures
    """

    event: tuple[int, ...]
    context: tuple[int, ...]
    arrays: Callable
    split: Callable
    merge: Callable


def _label(dataset):
    if dataset.train_labels is None:
        raise ValueError(
            f"--condition label needs labels, and {dataset.name} has none; use --condition quadrants-1"
        )
    classes = int(max(labels.max() for labels in (dataset.train_labels, dataset.test_labels))) + 1
    one_hot = np.eye(classes, dtype=np.float32)
    return Condition(
        dataset.train.shape[1:],
        (classes,),
        lambda x, labels: (x, one_hot[labels]),
        lambda batch: batch,
        lambda x, context: x,
    )


def _quadrants(dataset, count):
    """The lower left quadrant is given, then the upper left one, then the upper right one; the rest is x."""
    height, width, channels = dataset.train.shape[1:]
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

    sizes = (len(hidden) * channels,), (len(seen) * channels,)
    return Condition(*sizes, lambda x, labels: x, split, merge)


def make(name, dataset):
    """The condition of a name for a data set, or that of an unconditional model for None."""
    if name is None:
        shape = dataset.train.shape[1:]
        return Condition(shape, None, lambda x, labels: x, lambda batch: batch, lambda x, context: x)
    if name == "label":
        return _label(dataset)
    return _quadrants(dataset, int(name.removeprefix("quadrants-")))
