"""What arrays of one's own must be to make a data set: each defect has its line."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dlvm_jax.data.dataset import blocks

__all__ = ["PARTS", "as_examples", "as_labels", "as_seed", "kept_dtype", "known_levels"]

PARTS = ("train", "valid", "test")
MOST_LEVELS = 2**16


def as_examples(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parts that are given, as arrays [N, D] or [N, H, W, C] of equal examples; memory-mapped ones stay so.

    Raises ValueError for other shapes and types, and for parts that differ.
    """
    parts = {part: _example_array(part, array) for part, array in given.items() if array is not None}
    train = parts["train"]
    for part, array in parts.items():
        if not len(array) and part != "valid":
            raise ValueError(f"{part} has no examples")
        if array.shape[1:] != train.shape[1:]:
            raise ValueError(
                f"{part} has examples of shape {array.shape[1:]} and train of {train.shape[1:]}; they must be equal"
            )
        if (array.dtype.kind == "f") != (train.dtype.kind == "f"):
            raise ValueError(
                f"{part} holds {array.dtype} and train {train.dtype}; give all parts as integers or all as real numbers"
            )
    return parts


def _example_array(part, array):
    if np.ma.is_masked(array):
        raise ValueError(f"{part} is a masked array with missing values; fill them, or leave these rows out")
    if not isinstance(array, np.memmap):
        array = np.asarray(array)
    if array.dtype.kind == "V" and jnp.issubdtype(
        array.dtype, np.floating
    ):  # bfloat16, which NumPy cannot compute with
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{part} holds {array.dtype}; give bools, integers (levels) or floating-point numbers (real)"
        )
    if array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{part} has shape {array.shape}; give images [N, H, W] or [N, H, W, C], or vectors [N, D]"
        )
    if array.ndim == 3:
        array = array[..., None]
    if 0 in array.shape[1:]:
        raise ValueError(f"{part} has shape {array.shape}: its examples are empty")
    if array.ndim == 4 and array.shape[-1] > 4:
        hint = "; move the channels to the end: np.moveaxis(x, 1, -1)" if array.shape[1] <= 4 else ""
        raise ValueError(
            f"{part} has shape {array.shape}; images have 1 to 4 channels on the last axis{hint}"
        )
    return array


def as_labels(given: Mapping[str, Any], parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The labels that are given, int32 [N] each.  Raises ValueError for other things, and for lengths other than the part's."""
    labels = {}
    for part, array in given.items():
        if array is None:
            continue
        array = np.asarray(array)
        if part not in parts:
            raise ValueError(f"labels of {part} are given, and {part} is not; give it too")
        if array.shape != (len(parts[part]),):
            raise ValueError(
                f"labels of {part} have shape {array.shape}; {len(parts[part])} examples need ({len(parts[part])},)"
            )
        if array.dtype.kind not in "biu":
            raise ValueError(f"labels of {part} hold {array.dtype}; give integers 0, 1, ...")
        if len(array) and not 0 <= array.min() <= array.max() < 2**31:
            raise ValueError(
                f"labels of {part} range from {array.min()} to {array.max()}; give integers 0, 1, ..."
            )
        labels[part] = array.astype(np.int32)
    return labels


def as_seed(seed: Any) -> int:
    """A seed as an integer; raises ValueError for other numbers, and for those that NumPy's generator does not take."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is an integer from 0 to {2**32 - 1}, got {seed!r}")
    return int(seed)


def kept_dtype(parts: Mapping[str, np.ndarray]) -> np.dtype:
    """What the values are kept as: float32 for real numbers, else the smaller of uint8 and uint16 that holds all of them.

    Raises ValueError for integers that neither holds.
    """
    if parts["train"].dtype.kind == "f":
        return np.dtype(np.float32)
    return np.result_type(*(_integer_dtype(part, array) for part, array in parts.items()))


def _integer_dtype(part, array):
    if array.dtype in (np.bool_, np.uint8):
        return np.uint8
    if array.dtype == np.uint16:
        return np.uint16
    low = min((int(block.min()) for block in blocks(array)), default=0)
    high = max((int(block.max()) for block in blocks(array)), default=0)
    if low < 0 or high >= MOST_LEVELS:
        raise ValueError(
            f"{part} holds integers from {low} to {high}; levels are 0 to at most {MOST_LEVELS - 1}: "
            "shift them, or give real numbers as floats"
        )
    return np.uint8 if high < 256 else np.uint16


def known_levels(levels: int | None, high: float, dtype: np.dtype) -> int:
    """Number of values an element takes, 0 for real numbers.

    levels: what was asked for;  high: the greatest value there is;  dtype: what the values are kept as
    Raises ValueError for levels that do not fit.
    """
    if dtype.kind == "f":
        if levels is not None:
            raise ValueError(
                f"levels={levels} is for integers, and the arrays hold real numbers; leave it out"
            )
        return 0
    if levels is None:
        return 2 if high <= 1 else 256 if dtype == np.uint8 else MOST_LEVELS
    if not isinstance(levels, (int, np.integer)) or not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"levels must be an integer from 2 to {MOST_LEVELS}, got {levels!r}")
    if high >= levels:
        raise ValueError(f"levels={levels} allows integers up to {levels - 1}, and the arrays hold {high:g}")
    return int(levels)
