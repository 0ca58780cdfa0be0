"""Preparing a data set once into array_record with TensorFlow Datasets, and reading it back in its original order.

The builder is our own and stores `features.Tensor`, so neither preparing nor reading needs TensorFlow.  A record is a block of
images: reading back 70,000 of them takes a moment instead of seconds.
"""

import contextlib
import hashlib
import io
import os
import shutil
import socket
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np

from dlvm_jax.data.sources import SOURCES, Splits

__all__ = ["cache_folder", "check_reachable", "read_prepared"]

BLOCK = 1000
VERSION = "1.0.0"


def cache_folder() -> Path:
    """Where prepared data sets live: $XDG_CACHE_HOME (or ~/.cache) / dlvm_jax / tfds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlvm_jax" / "tfds"


def check_reachable(url: str) -> None:
    """Raise ConnectionError unless the server, or the proxy in front of it, takes a connection: TFDS would retry for minutes."""
    host = urlsplit(url).hostname
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        with socket.create_connection((parts.hostname, port), timeout=5):
            pass
    except OSError:
        raise ConnectionError(f"{host} cannot be reached") from None


def _download(name, files, dl_manager, folder, missing):
    """Fetch the original files into a folder under their own names; FileNotFoundError where they cannot be had."""
    for file in files:
        try:
            check_reachable(file.url)
            print(f"downloading {file.url}", file=sys.stderr)
            path = Path(dl_manager.download(file.url))
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise FileNotFoundError(
                f"the files of {name} are not here ({missing}) and {reason}; "
                f"put {', '.join(f.name for f in files)} into a folder {name} and set DLVM_DATA to the folder above it"
            ) from error
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if file.sha256 not in (None, digest):
            raise ValueError(
                f"{file.url} has SHA-256 {digest}, expected {file.sha256}; it changed or was cut short"
            )
        shutil.copy(path, Path(folder) / file.name)


def _intact(source, name, folder, where):
    """What a source reads from a folder.  Raises FileNotFoundError, and ValueError for files that are damaged."""
    try:
        return source.read(folder)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"the files of {name} {where} cannot be read ({type(error).__name__}: {error}); "
            f"put intact ones into a folder {name} and set DLVM_DATA to the folder above it"
        ) from error


def _read_source(name, dl_manager):
    source, root = SOURCES[name], os.environ.get("DLVM_DATA")
    if not source.files:
        return source.read(None)
    missing = f"DLVM_DATA={root} has no {name}" if root else "DLVM_DATA is not set"
    if root and (Path(root) / name).is_dir():
        try:
            return _intact(source, name, Path(root) / name, f"in {Path(root) / name}")
        except FileNotFoundError as error:
            missing = f"DLVM_DATA={root}: {error}"
    with tempfile.TemporaryDirectory() as folder:
        _download(name, source.files, dl_manager, folder, missing)
        return _intact(source, name, folder, f"as downloaded from {source.files[0].url}")


@cache
def _builder_class():
    import tensorflow_datasets as tfds

    class DlvmArrays(tfds.core.GeneratorBasedBuilder):
        """Images and labels of the sets in `sources`, one configuration a set."""

        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, version=VERSION) for name in SOURCES]  # noqa: RUF012

        def _info(self: Any):
            tensor = tfds.features.Tensor
            return tfds.core.DatasetInfo(
                builder=self,
                citation=SOURCES[self.builder_config.name].citation,
                features=tfds.features.FeaturesDict(
                    {
                        "block": np.int64,
                        "shape": tensor(shape=(4,), dtype=np.int64),
                        "images": tensor(shape=(None,), dtype=np.uint8, encoding="zlib"),
                        "labels": tensor(shape=(None,), dtype=np.int32),
                    }
                ),
            )

        def _split_generators(self: Any, dl_manager):
            splits = _read_source(self.builder_config.name, dl_manager)
            return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

        def _generate_examples(self, images, labels):
            for block, start in enumerate(range(0, len(images), BLOCK)):
                part = images[start : start + BLOCK]
                label_block = np.zeros(0, np.int32) if labels is None else labels[start : start + BLOCK]
                yield (
                    block,
                    {"block": block, "shape": part.shape, "images": part.ravel(), "labels": label_block},
                )

    return DlvmArrays


def _builder(name, folder) -> Any:
    return _builder_class()(data_dir=str(folder), config=name, file_format="array_record")


@contextlib.contextmanager
def _lock(path):
    """One process prepares at a time."""
    import fcntl

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(name, folder, place):
    """Write the prepared copy; TFDS writes beside `place` and renames at the end, so `place` is whole once it exists."""
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True, exist_ok=True)
    tfds.disable_progress_bar()
    with _lock(folder / f"{name}.lock"):
        if place.exists():  # another process was faster
            return
        for left in place.parent.glob("incomplete.*"):  # of a run that was killed: the lock is ours
            shutil.rmtree(left)
        print(f"preparing {name} in {place} (once)")
        downloads = folder / "downloads" / name
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                _builder(name, folder).download_and_prepare(
                    download_dir=str(downloads), download_config=config
                )
        except ValueError:  # a damaged file, which TFDS would take for the right one the next time
            shutil.rmtree(downloads, ignore_errors=True)
            raise
        shutil.rmtree(downloads, ignore_errors=True)


def read_prepared(name: str, cache: Path | str | None = None) -> Splits:
    """The raw arrays of a set, `{split: (images, labels or None)}` in original order, preparing them the first time.

    cache: folder of prepared sets, default `cache_folder()`; nothing is written to it once the set is there.  Raises
    FileNotFoundError where the files are neither local nor to be downloaded, ValueError for files or a prepared copy that
    are damaged, in one line that says what to do.
    """
    folder = Path(cache) if cache is not None else cache_folder()
    place = folder / "dlvm_arrays" / name / VERSION
    if not place.exists():
        _prepare(name, folder, place)
    try:
        builder = _builder(name, folder)
        if not builder.info.splits:
            raise ValueError("no splits")
        return {split: _join(builder.as_data_source(split)) for split in builder.info.splits}
    except Exception as error:
        raise ValueError(
            f"the prepared copy of {name} is damaged ({type(error).__name__}); delete {place} and run again"
        ) from error


def _join(blocks):
    """Images and labels of a split, from its blocks in any order."""
    ordered = sorted((blocks[i] for i in range(len(blocks))), key=lambda b: int(b["block"]))
    if [int(b["block"]) for b in ordered] != list(range(len(ordered))) or not ordered:
        raise ValueError("blocks are missing")
    images = np.concatenate([np.asarray(b["images"]).reshape(b["shape"]) for b in ordered])
    labels = np.concatenate([np.asarray(b["labels"]) for b in ordered])
    return images, (labels if len(labels) else None)
