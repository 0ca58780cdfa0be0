"""Arrays of one's own as a data set: checked, split, under a protocol with its hash.

Integers are levels 0, 1, ..., which have a probability; floating-point numbers are real, and have a density.  They are even
where all are whole numbers, exactly or up to rounding: for levels give integers (`x.round().astype(int)`).  Memory-mapped arrays
are read block by block and never copied as a whole.
"""

import hashlib
import json

import numpy as np
from numpy.typing import ArrayLike

from dlvm_jax.data.checks import PARTS, as_examples, as_labels, as_seed, kept_dtype, known_levels
from dlvm_jax.data.dataset import Data, Rows, blocks
from dlvm_jax.data.protocol import REALS, TRANSFORMS, Protocol
from dlvm_jax.data.splits import HELD_OUT, hold_out, take
from dlvm_jax.data.tables import standardised
from dlvm_jax.settings import pick

__all__ = ["from_arrays"]

OWN = "own arrays"

DESCRIPTIONS = {  # of a protocol, after the sizes of its parts
    "bits": "bits as they are",
    "binarised": "new bits Bernoulli(level / {top}) for each minibatch, validation and test bits drawn once (seed {seed})",
    "levels": "integer levels 0 to {top}",
    "dequantised": "(level + u) / {levels}, u of validation and test drawn once (seed {seed})",
    "scaled": "level / {top}: no likelihood of discrete data",
    "real": "real numbers as they are",
}


def from_arrays(
    train: ArrayLike,
    *,
    valid: ArrayLike | None = None,
    test: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    valid_labels: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    name: str = "mine",
    protocol: str | None = None,
    transform: str | None = None,
    levels: int | None = None,
    seed: int = 0,
    source: str = OWN,
) -> Data:
    """Arrays of one's own as `Data`, with splits, and a protocol whose hash is over the arrays and all settings.

    train: images [N, H, W] or [N, H, W, C] of 1 to 4 channels, or vectors [N, D]; a memory-mapped array is not copied
    valid, test: held-out examples; where they are not given, a tenth of `train` each, at most 10,000, by a permutation
    labels: integers [N] of `train`, 0 or more;  valid_labels, test_labels: of `valid` and `test`
    name: what the data are called
    protocol: a name in `TRANSFORMS` for integers; "real" for floating-point numbers; "standardised" for vectors, every column
        with mean 0 and standard deviation 1 on the training rows.  Default: "levels" ("bits" for 0 and 1), or "real"
    transform: without a protocol, the transformation of integers that a model prefers, a name in `TRANSFORMS`; bits stay bits
        for "levels" and "binarised"
    levels: number of values an integer takes.  Default: 2 where only 0 and 1 occur, else 256, or 65536 for uint16 and for
        integers of other types of which some are above 255
    seed: of the permutation and of fixed draws, an integer
    source: where the data come from, a part of the protocol
    Raises ValueError for arrays of another shape or type, NaN, negative integers, one value only, parts or labels that do not
    fit each other, too few examples, and settings that do not fit the arrays.
    """
    seed = as_seed(seed)
    parts = as_examples({"train": train, "valid": valid, "test": test})
    given = as_labels({"train": labels, "valid": valid_labels, "test": test_labels}, parts)
    held = [part for part in PARTS if part not in parts]
    table = protocol == "standardised"
    indices = hold_out(len(parts["train"]), held, seed, len(parts["train"]) if table else HELD_OUT)
    split_labels = [take(given, indices, part) for part in PARTS]
    how = f"permutation of seed {seed}" if held else "parts as given"
    if table:
        if levels is not None:
            raise ValueError(f"levels={levels} is for integers, not for protocol standardised; leave it out")
        rows = [np.asarray(take(parts, indices, part)) for part in PARTS]
        return standardised(rows, split_labels, name, seed, source, how)

    dtype = kept_dtype(parts)
    scans = {part: _scan(part, array, dtype) for part, array in parts.items()}
    low, high, _ = scans["train"]
    if low == high:
        raise ValueError(f"train holds one value only, {low:g}; there is nothing to learn")
    levels = known_levels(levels, max(scan[1] for scan in scans.values()), dtype)
    protocol = _protocol_name(protocol, transform, levels)
    transformation = REALS if protocol == "real" else TRANSFORMS[protocol]

    raw = _train(parts["train"], indices.get("train"), dtype)
    valid, test = (np.asarray(take(parts, indices, part)).astype(dtype, copy=False) for part in PARTS[1:])
    sizes = len(raw), len(valid), len(test)
    text = DESCRIPTIONS[protocol].format(top=levels - 1, levels=levels, seed=seed)
    digests = [scan[2] for scan in scans.values()] + [_digest(array) for array in given.values()]
    identity = json.dumps([levels, list(scans), list(given), digests])
    rng = np.random.RandomState(seed)
    return Data(
        name=name,
        train=raw,
        valid=transformation.fixed(levels, rng, valid),
        test=transformation.fixed(levels, rng, test),
        train_labels=split_labels[0],
        valid_labels=split_labels[1],
        test_labels=split_labels[2],
        levels=transformation.levels(levels),
        bin_width=transformation.bin_width(levels),
        discrete=transformation.discrete,
        preprocess=transformation.train(levels),
        protocol=Protocol(
            name=protocol,
            sizes=sizes,
            transform="none" if protocol == "real" else protocol,
            seed=seed,
            description=f"{'/'.join(map(str, sizes))}, {how}, {text}",
            source=source,
            shuffle=seed if held else None,
        ).with_hash(hashlib.sha256(identity.encode()).hexdigest()),
    )


def _digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _scan(part, array, dtype):
    """Least and greatest value of an array, and the SHA-256 of its shape, type and values, in one pass of blocks."""
    total = hashlib.sha256(f"{dtype} {array.shape}".encode())
    low, high = np.inf, -np.inf
    for block in blocks(array):
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(block, dtype)
        ends = float(block.min()), float(block.max())
        if not np.isfinite(ends).all():
            raise ValueError(f"{part} holds NaN, or numbers that are infinite as float32")
        total.update(block.data)
        low, high = min(low, ends[0]), max(high, ends[1])
    return low, high, total.hexdigest()


def _protocol_name(protocol, transform, levels):
    """The name of the protocol that was asked for, or that suits; raises ValueError where it does not fit the values."""
    names = dict.fromkeys((*TRANSFORMS, "real", "standardised"))
    if protocol is not None:
        pick(names, protocol, "protocol")
    if transform is not None:
        pick(TRANSFORMS, transform, "transformation")
    if levels == 0:
        if protocol not in (None, "real"):
            raise ValueError(
                f"protocol {protocol} is of integers, and the arrays hold real numbers; give integers, or use protocol real"
            )
        return "real"
    if protocol == "real":
        raise ValueError(
            "protocol real is of floating-point numbers, and the arrays hold integers, which have no density; "
            "use protocol dequantised, or give floats"
        )
    if protocol is None:
        bits = levels == 2 and transform in (None, "levels", "binarised")
        protocol = "bits" if bits else transform or "levels"
    if protocol == "bits" and levels > 2:
        raise ValueError(
            f"protocol bits is of 0 and 1, and the arrays have {levels} levels; use binarised or levels"
        )
    return protocol


def _train(array, order, dtype):
    """The training examples: an array, or of a memory-mapped one itself or `Rows`."""
    if isinstance(array, np.memmap):
        if order is None and array.dtype == dtype:
            return array
        return Rows(array, np.arange(len(array)) if order is None else order, dtype)
    return (array if order is None else array[order]).astype(dtype, copy=False)
