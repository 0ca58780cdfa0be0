"""From a name, a path or an address to a data set."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from dlvm_jax.data import builders, speech, toys
from dlvm_jax.data.arrays import from_arrays
from dlvm_jax.data.binary_tables import BINARY_TABLES
from dlvm_jax.data.binary_tables import read as read_binary_table
from dlvm_jax.data.dataset import Data
from dlvm_jax.data.files import ARRAY_FILES, read_array_file, read_folder
from dlvm_jax.data.protocol import PROTOCOLS, TRANSFORMS, Protocol
from dlvm_jax.data.sources import SOURCES
from dlvm_jax.data.tables import TABLES
from dlvm_jax.data.tfds_sets import read_tfds
from dlvm_jax.settings import pick

__all__ = ["load", "names", "protocols", "published_protocol"]


def names() -> tuple[str, ...]:
    """The published data sets there are."""
    return tuple(PROTOCOLS)


def protocols(name: str) -> tuple[Protocol, ...]:
    """The protocols of a published data set, its default first.  Raises ValueError for an unknown name."""
    return pick(PROTOCOLS, name, "data set")


def load(
    source: str | Path,
    protocol: str | None = None,
    cache: str | Path | None = None,
    *,
    transform: str | None = None,
    levels: int | None = None,
    seed: int | None = None,
    resize: tuple[int, int] | None = None,
    mmap: bool | None = None,
) -> Data:
    """A data set by name, path or address.

    source: a published set (`names()`), a toy in the plane (`toys.TOYS`), a table (`tables.TABLES`,
        `binary_tables.BINARY_TABLES`), "spoken_digits", a file .npy, .npz or .csv (see `files.read_array_file`), a folder of PNG
        or JPEG images, or "tfds:NAME", an image set of TensorFlow Datasets
    protocol: one of the set's (`protocols(name)`), by default its first; of one's own data as in `from_arrays`, by default
        "standardised" for rows of real numbers
    cache: folder of prepared sets
    transform: without a protocol, the transformation of integers that a model prefers, a name in `TRANSFORMS`: the set's first
        protocol with it; bits stay bits for "levels" and "binarised"; real numbers stay what they are
    levels, seed: of one's own data, as in `from_arrays`
    resize: height and width that the images of a folder, or of TensorFlow Datasets, are brought to
    mmap: whether a .npy file is memory-mapped instead of read; default: from 256 MB on
    Raises ValueError for an unknown name or protocol and for data that are unfit (see `from_arrays`), FileNotFoundError for
    files that are not there and cannot be downloaded.
    """
    name, path = str(source), Path(source)
    if transform is not None:
        pick(TRANSFORMS, transform, "transformation")
    if resize is not None and (len(resize) != 2 or min(resize) < 1):
        raise ValueError(f"resize is a height and a width of at least 1, got {resize}")
    settings = {"levels": levels, "seed": seed, "resize": resize, "mmap": mmap}
    if name in PROTOCOLS:
        _refuse(name, settings)
        return _published(name, published_protocol(name, protocol, transform), cache)
    if name in toys.TOYS:
        _refuse(name, settings)
        pick(dict.fromkeys(["sampled"]), protocol or "sampled", f"protocol of {name}")
        return toys.dataset(name)
    if name in TABLES:
        _refuse(name, settings)
        pick(dict.fromkeys(["standardised"]), protocol or "standardised", f"protocol of {name}")
        return from_arrays(TABLES[name](), name=name, protocol="standardised", source=name)
    if name in BINARY_TABLES:
        _refuse(name, settings)
        pick(dict.fromkeys(["bits"]), protocol or "bits", f"protocol of {name}")
        return read_binary_table(name)
    if name == speech.NAME:
        _refuse(name, settings)
        pick(dict.fromkeys([speech.PROTOCOL]), protocol or speech.PROTOCOL, f"protocol of {name}")
        return speech.dataset(speech.read())

    arrays, stem = _read(name, path, cache, resize, mmap)
    return _own(arrays, stem, path.name, protocol, transform, levels, seed or 0)


def _read(name, path, cache, resize, mmap):
    """The arrays of a source that is no published set, as `from_arrays` takes them, and what they are called."""
    if name.startswith("tfds:"):
        _refuse(name, {"mmap": mmap})
        name = name.removeprefix("tfds:")
        return read_tfds(name, cache, resize), f"tfds-{name.replace('/', '-')}"
    if path.suffix.lower() in ARRAY_FILES:
        _refuse(name, {"resize": resize} | ({} if path.suffix.lower() == ".npy" else {"mmap": mmap}))
        return read_array_file(path, mmap), path.stem
    if path.is_dir():
        _refuse(name, {"mmap": mmap})
        return {"train": read_folder(path, resize)}, path.resolve().name
    kinds = f"{', '.join(ARRAY_FILES)} or a folder of images"
    if path.exists():
        raise ValueError(f"{name} is no data: give {kinds}")
    if path.suffix or os.sep in name:
        raise FileNotFoundError(f"{name} does not exist; give {kinds}")
    known: dict[str, Any] = {**PROTOCOLS, **toys.TOYS, **TABLES, **BINARY_TABLES, speech.NAME: None}
    return pick(known, name, "data set")  # raises, for it is none of them


def _refuse(source, settings):
    """Raise ValueError for a setting that a source does not have."""
    for name, value in settings.items():
        if value is not None:
            raise ValueError(f"{source} has no setting {name}; leave {name}={value!r} out")


def _own(arrays, name, file, protocol, transform, levels, seed):
    """Arrays that were read, as `Data`.  Rows of real numbers are a table unless a protocol says otherwise."""
    train = arrays["train"]
    if train.ndim == 2 and train.dtype.kind == "f":
        if protocol is None:
            protocol = "standardised"
        elif protocol in TRANSFORMS and file.lower().endswith(".csv") and (train == np.rint(train)).all():
            arrays = {"train": train.astype(np.int64)}  # text does not tell integers from real numbers
    source = {"source": file} if protocol == "standardised" else {}
    return from_arrays(
        **arrays, name=name, protocol=protocol, transform=transform, levels=levels, seed=seed, **source
    )


def published_protocol(name: str, protocol: str | None, transform: str | None) -> Protocol:
    """The protocol of a published set that has that name, or the first with a transformation.

    Raises ValueError where there is none.
    """
    choices = {p.name: p for p in protocols(name)}
    if protocol is not None:
        return pick(choices, protocol, f"protocol of {name}")
    wanted = [transform] + ["bits"] * (transform in ("levels", "binarised"))
    found = [p for p in choices.values() if transform is None or p.transform in wanted]
    if not found:
        there = ", ".join(f"{p.name} ({p.transform})" for p in choices.values())
        raise ValueError(f"{name} has no protocol whose values are {transform}; it has {there}")
    return found[0]


def _published(name, protocol, cache):
    """A published set under a protocol."""
    splits = builders.read_prepared(name, cache)
    total = hashlib.sha256()
    for split in sorted(splits):
        total.update(np.ascontiguousarray(splits[split][0]).data)
    levels, transform = SOURCES[name].levels, TRANSFORMS[protocol.transform]
    (train, valid, test) = _split(splits, protocol)
    rng = np.random.RandomState(protocol.seed)
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
        protocol.with_hash(total.hexdigest()),
    )


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
    if len(pool) < train_size + valid_size:  # CIFAR-10 without some of its images: validation is what is left
        valid_size = len(pool) - train_size
    first, second = order[:train_size], order[train_size : train_size + valid_size]
    return *((pool[i], None if labels is None else labels[i]) for i in (first, second)), test
