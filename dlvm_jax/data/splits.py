"""Held-out parts of data that come without them."""

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["HELD_OUT", "hold_out", "take"]

HELD_OUT = 10_000  # examples of a part that is held out, at most


def hold_out(count: int, held: Sequence[str], seed: int, most: int = HELD_OUT) -> dict[str, np.ndarray]:
    """Indices of "train" and of the parts that are held out of it: the ends of a permutation, a tenth each.

    count: number of examples
    held: names of the parts, none for all of it
    seed: of the permutation
    most: examples of a part, at most
    Raises ValueError where fewer than two examples are left for training.
    """
    size = min(most, max(1, count // 10))
    if count - size * len(held) < 2:
        parts = f" after {size} each for {' and '.join(held)}; give more, or these parts" if held else ""
        raise ValueError(f"train has {count} examples; two or more are needed{parts}")
    if not held:
        return {}
    order = np.random.RandomState(seed).permutation(count)
    indices = {}
    for part in reversed(held):
        indices[part], order = order[-size:], order[:-size]
    return {"train": order, **indices}


def take(arrays: Mapping[str, np.ndarray], indices: Mapping[str, np.ndarray], part: str) -> np.ndarray | None:
    """A part of arrays as given, or the rows of "train" that `hold_out` gave it; None where there is none."""
    if part not in indices:
        return arrays.get(part)
    return arrays["train"][indices[part]] if "train" in arrays else None
