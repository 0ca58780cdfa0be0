"""From a name and a protocol to arrays."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dlvm_jax.data import builders
from dlvm_jax.data.protocol import PROTOCOLS, TRANSFORMS, Protocol
from dlvm_jax.data.sources import SOURCES
from dlvm_jax.settings import pick

__all__ = ["Data", "Spec", "load", "names", "protocols"]


class Spec(NamedTuple):
    """What a model must know of its data: all of it is saved with a run.

    name, protocol, protocol_hash: which data, under which protocol
    event_shape: of one example;  examples: number of training examples
    levels: values an element takes (0: real numbers), as integers where `discrete`;  bin_width: their distance
    classes: number of labels, None where there are none
    """

    name: str
    protocol: str
    protocol_hash: str
    event_shape: tuple[int, ...]
    examples: int
    levels: int
    discrete: bool
    bin_width: float
    classes: int | None = None


class Data(NamedTuple):
    """A data set under a protocol.

    train: raw uint8 [n, h, w, c], which `preprocess` transforms minibatch by minibatch (float32 [n, D] of vectors)
    valid, test: transformed with fixed draws (uint8 for discrete data, else float32); valid may be empty
    *_labels: int32 [n], or None;  levels: values of a pixel after the transformation (0 of vectors)
    bin_width: their distance, for bits per dimension;  discrete: whether they are integers
    preprocess: (key, raw batch) -> float32 batch, pure JAX
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    valid_labels: np.ndarray | None
    test_labels: np.ndarray | None
    levels: int
    bin_width: float
    discrete: bool
    preprocess: Callable
    protocol: Protocol

    @property
    def spec(self) -> Spec:
        """What a model must know of these data."""
        labels = [
            part for part in (self.train_labels, self.valid_labels, self.test_labels) if part is not None
        ]
        return Spec(
            self.name,
            self.protocol.name,
            self.protocol.hash,
            tuple(self.train.shape[1:]),
            len(self.train),
            self.levels,
            self.discrete,
            self.bin_width,
            1 + max(int(part.max(initial=0)) for part in labels) if labels else None,
        )


def of_vectors(name, splits, protocol):
    """The `Data` set of real vectors, three arrays float32 [n, D], whose digest completes the protocol."""
    digest = hashlib.sha256(b"".join(rows.tobytes() for rows in splits)).hexdigest()
    labels = None, None, None
    return Data(name, *splits, *labels, 0, 1.0, False, lambda key, raw: raw, protocol.with_hash(digest))


def names():
    """The data sets there are."""
    return tuple(PROTOCOLS)


def protocols(name):
    """The protocols of a data set, its default first."""
    return pick(PROTOCOLS, name, "data set")


def _split(splits, protocol):
    """(images, labels) of train, valid and test: consecutive parts of the published (or permuted) training pool."""
    train_size, valid_size, test_size = protocol.sizes
    if "valid" in splits:
        return splits["train"], splits["valid"], splits["test"]
    pool, labels = splits["train"]
    order = np.arange(len(pool))
    if protocol.shuffle is not None:
        order = np.random.RandomState(protocol.shuffle).permutation(len(pool))
    if "test" in splits:
        test = splits["test"]
    else:
        last = order[train_size + valid_size : train_size + valid_size + test_size]
        test = pool[last], None if labels is None else labels[last]
    if len(pool) < train_size + valid_size:  # CIFAR-10 without its inexact images: validation is what is left
        valid_size = len(pool) - train_size
    first, second = order[:train_size], order[train_size : train_size + valid_size]
    return *((pool[i], None if labels is None else labels[i]) for i in (first, second)), test


def load(name, protocol=None, cache=None):
    """A data set under one of its protocols (the first by default).

    cache: folder of prepared sets.  Raises ValueError for an unknown name or protocol, FileNotFoundError where the files are
    neither in the folder DLVM_DATA nor on a network that can be reached.
    """
    choices = {p.name: p for p in protocols(name)}
    chosen = pick(choices, protocol or next(iter(choices)), f"protocol of {name}")
    splits = builders.read_prepared(name, cache)
    total = hashlib.sha256()
    for split in sorted(splits):
        total.update(np.ascontiguousarray(splits[split][0]).tobytes())
    levels, transform = SOURCES[name].levels, TRANSFORMS[chosen.transform]
    (train, valid, test) = _split(splits, chosen)
    rng = np.random.RandomState(chosen.seed)
    return Data(
        name,
        train[0],
        transform.fixed(levels, rng, valid[0]),
        transform.fixed(levels, rng, test[0]),
        train[1],
        valid[1],
        test[1],
        transform.levels(levels),
        transform.bin_width(levels),
        transform.discrete,
        transform.train(levels),
        chosen.with_hash(total.hexdigest()),
    )
