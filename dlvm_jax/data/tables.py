"""Tables of real numbers: one of scikit-learn's, or a file of one's own."""

import zipfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

from dlvm_jax.data.loading import of_vectors
from dlvm_jax.data.protocol import Protocol

__all__ = ["FILES", "NAMES", "dataset"]

NAMES = ("breast_cancer",)
FILES = (".npy", ".npz", ".csv")
PARTS = ("train", "valid", "test")


def _read(path):
    """The arrays of a file: {"rows"} of one table, or the three of `PARTS`."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a table as {', '.join(FILES)}")
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                return {name: file[name] for name in file.files}
        return {"rows": np.load(path) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no table of numbers without a header: {error}") from None


def dataset(name, seed=0):
    """A table as a `Data` set: every column with mean 0 and standard deviation 1 on the training rows.

    name: one of `NAMES`, or a file: .npy or .csv (no header) of rows [N, D], of which a permutation by `seed` leaves a tenth
    each for validation and test, or .npz with the published parts "train", "valid" and "test".
    Raises FileNotFoundError for a file that is not there, and ValueError for one that holds something else.
    """
    arrays = {"rows": load_breast_cancer().data} if name in NAMES else _read(Path(name))
    if set(arrays) not in ({"rows"}, set(PARTS)):
        raise ValueError(f"{name} holds {', '.join(arrays)}; a table has the arrays {', '.join(PARTS)}")
    for part, array in arrays.items():
        if (
            array.ndim != 2
            or not len(array)
            or not np.issubdtype(array.dtype, np.number)
            or not np.isfinite(array).all()
        ):
            raise ValueError(
                f"{name}: {part} must hold finite numbers [N, D], got {array.dtype} of shape {array.shape}"
            )
    if "rows" in arrays:
        rows = arrays["rows"][np.random.RandomState(seed).permutation(len(arrays["rows"]))]
        tenth = max(1, len(rows) // 10)
        splits = rows[: -2 * tenth], rows[-2 * tenth : -tenth], rows[-tenth:]
        said = f"permutation of seed {seed}"
    else:
        splits, said = [arrays[part] for part in PARTS], "the file's own parts"
        if len(widths := {rows.shape[1] for rows in splits}) > 1:
            raise ValueError(f"{name}: its parts must have the same columns, got {sorted(widths)} of them")
    if min(map(len, splits)) < 1 or len(splits[0]) < 2:
        raise ValueError(
            f"{name}: two rows or more for training are needed, got parts of {[*map(len, splits)]} rows"
        )
    mean, std = splits[0].mean(0, dtype=np.float64), splits[0].std(0, dtype=np.float64)
    # not by a standard deviation of zero, to which rounding may add
    constant = np.flatnonzero((splits[0] == splits[0][0]).all(0))
    if len(constant):
        raise ValueError(f"{name}: columns {constant.tolist()} are constant in training; leave them out")
    splits = [((rows - mean) / std).astype(np.float32) for rows in splits]
    sizes = tuple(map(len, splits))
    description = (
        f"{'/'.join(map(str, sizes))} rows of {len(mean)} columns, {said}, standardised by the training rows"
    )
    protocol = Protocol("standardised", sizes, "none", seed, description, str(name))
    return of_vectors(Path(name).stem, splits, protocol)
