"""Tables of real numbers, [N, D]: every column has mean 0 and standard deviation 1 on the training rows."""

from collections.abc import Sequence

import numpy as np

from dlvm_jax.data.dataset import Data, of_vectors
from dlvm_jax.data.protocol import Protocol

__all__ = ["TABLES", "standardised"]


def _breast_cancer():
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)[0]


TABLES = {"breast_cancer": _breast_cancer}  # name: () -> rows [N, D]


def _rounding(rows):
    """The rounding of each column's largest value: of its type, and of float32 where that holds all values, not all integers."""
    wide = rows.astype(np.float64)
    with np.errstate(over="ignore"):
        single = (wide == rows.astype(np.float32)).all(0) & (wide != np.rint(wide)).any(0)
    own = np.finfo(rows.dtype if rows.dtype.kind == "f" else np.float64).eps
    return np.where(single, max(own, np.finfo(np.float32).eps), own) * np.abs(wide).max(0)


def standardised(
    splits: Sequence[np.ndarray],
    labels: Sequence[np.ndarray | None],
    name: str,
    seed: int,
    source: str,
    how: str,
) -> Data:
    """Rows of numbers as `Data`, standardised by the training rows.

    splits, labels: of train, valid and test
    how: what made the splits, for the description
    Raises ValueError for what is no table of finite real numbers, and for columns that are constant up to rounding.
    """
    for part, rows in zip(("train", "valid", "test"), splits, strict=True):
        if rows.ndim != 2:
            raise ValueError(f"protocol standardised is of vectors [N, D], and {part} has shape {rows.shape}")
        if rows.dtype.kind not in "biuf":
            raise ValueError(f"{part} holds {rows.dtype}; a table is of real numbers")
        if not np.isfinite(rows).all():
            raise ValueError(f"{part} holds NaN or infinite numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = splits[0].mean(0, dtype=np.float64), splits[0].std(0, dtype=np.float64)
    if not np.isfinite(std).all():
        raise ValueError(f"{name}: numbers so large have no standard deviation; give them in other units")
    constant = np.flatnonzero(std <= 2 * _rounding(splits[0]))
    if len(constant):
        raise ValueError(f"{name}: columns {constant.tolist()} are constant in training; leave them out")
    with np.errstate(over="ignore"):
        train, valid, test = (((rows - mean) / std).astype(np.float32) for rows in splits)
    for part, rows in (("valid", valid), ("test", test)):
        if not np.isfinite(rows).all():
            raise ValueError(
                f"{part} holds numbers that are infinite beside the training rows; leave them out"
            )
    sizes = len(train), len(valid), len(test)
    counts = "/".join(map(str, sizes))
    text = f"{counts} rows of {len(mean)} columns, {how}, standardised by the training rows"
    protocol = Protocol("standardised", sizes, "none", seed, text, source)
    return of_vectors(name, (train, valid, test), protocol, labels)
