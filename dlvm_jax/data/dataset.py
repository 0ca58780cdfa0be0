"""What a data set is: its arrays, and what becomes of them before a model sees them."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dlvm_jax.data.protocol import Protocol

__all__ = ["Data", "Rows", "Spec", "blocks", "of_vectors"]

BLOCK = 2**24  # bytes that are read of a large array at a time


class Rows:
    """Chosen examples of an array, gathered and cast when they are asked for.

    A memory-mapped file is split by these without reading it.  `rows[index]` is an array, for an integer, a slice or an array
    of indices; `np.asarray(rows)` reads all of them.

    array: the examples, on the leading axis
    order: int [n], which of them, and in which order
    dtype: what they are cast to
    """

    def __init__(self, array: np.ndarray, order: np.ndarray, dtype: np.dtype) -> None:
        self.array, self.order, self.dtype = array, order, np.dtype(dtype)
        self.shape = (len(order), *array.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all examples, once they are gathered."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        return np.asarray(self.array[self.order[index]]).astype(self.dtype, copy=False)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)


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

    train: raw integers or reals [n, h, w, c], [n, t, d] or [n, d], which `preprocess` transforms minibatch by minibatch: an
        array, a memory-mapped one, or `Rows` of one
    valid, test: transformed with fixed draws (unsigned integers for discrete data, else float32); valid may be empty
    *_labels: int32 [n], or None
    levels: values of an element after the transformation, 0 for real numbers
    bin_width: their distance, for bits per dimension;  discrete: whether they are integers
    preprocess: (key, raw batch) -> float32 batch, pure JAX
    """

    name: str
    train: np.ndarray | Rows
    valid: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    valid_labels: np.ndarray | None
    test_labels: np.ndarray | None
    levels: int
    bin_width: float
    discrete: bool
    preprocess: Callable[[jax.Array, Any], jax.Array]
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


def blocks(array: "np.ndarray | Rows") -> Iterator[np.ndarray]:
    """The array in pieces of a few megabytes along its leading axis, so that a memory-mapped one is never read as a whole."""
    size = max(1, BLOCK // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
    for start in range(0, len(array), size):
        yield np.asarray(array[start : start + size])


def of_vectors(
    name: str,
    splits: Sequence[np.ndarray],
    protocol: Protocol,
    labels: Sequence[np.ndarray | None] = (None, None, None),
) -> Data:
    """Real vectors, or sequences of them, as `Data`; the digest of the arrays completes the protocol.

    splits: train, valid and test, float32 [n, D] or [n, T, D] each;  labels: int32 [n] of each, or None
    """
    total = hashlib.sha256()
    for array in (*splits, *labels):
        if array is not None:
            total.update(np.ascontiguousarray(array).data)
    train, valid, test = splits
    train_labels, valid_labels, test_labels = labels
    return Data(
        name=name,
        train=train,
        valid=valid,
        test=test,
        train_labels=train_labels,
        valid_labels=valid_labels,
        test_labels=test_labels,
        levels=0,
        bin_width=1.0,
        discrete=False,
        preprocess=lambda key, raw: raw,
        protocol=protocol.with_hash(total.hexdigest()),
    )
