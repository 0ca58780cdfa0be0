"""Image sets of TensorFlow Datasets, read with array_record: TensorFlow itself is not needed."""

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dlvm_jax.data.builders import check_reachable
from dlvm_jax.data.files import stack_images

__all__ = ["read_tfds"]

SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}


def read_tfds(
    name: str, folder: Path | str | None = None, resize: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """The images of a set of TensorFlow Datasets, as `from_arrays` takes them; prepared on first use.

    name: as for `tfds.builder`: NAME, NAME/CONFIG or NAME/CONFIG:VERSION
    folder: where prepared sets are; default $TFDS_DATA_DIR, or else that of TensorFlow Datasets
    resize: height and width that all images are brought to
    Raises ValueError for a set that is unknown, has no images, or can be neither read nor prepared here.
    """
    builder = _builder(name, folder)
    if not builder.info.splits:
        _prepare(name, builder)
    image, label = _features(name, builder.info.features)
    splits = {split: part for split, part in SPLITS.items() if split in builder.info.splits}
    if "train" not in splits:
        raise ValueError(f"tfds:{name} has the splits {', '.join(builder.info.splits)}, and no train")
    arrays = {}
    for split, part in splits.items():
        try:
            source = builder.as_data_source(split)
        except Exception as error:  # of many kinds: another file format, damaged files
            raise ValueError(
                f"tfds:{name} in {builder.data_path} cannot be read as array_record: {_line(error)}"
            ) from error
        classes = np.empty(len(source), np.int64) if label else None
        arrays[part] = stack_images(
            _images(source, image, label, classes), len(source), f"tfds:{name}", resize
        )
        if label:
            arrays["labels" if part == "train" else f"{part}_labels"] = classes
    return arrays


def _line(error):
    return str(error).strip().split("\n")[0] or type(error).__name__


def _images(source, image, label, classes):
    """Names and pixels of the examples, whose labels are written into `classes` on the way."""
    for i in range(len(source)):
        example = source[i]
        if label:
            classes[i] = example[label]
        yield f"example {i}", np.asarray(example[image])


def _builder(name, folder) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    folder = folder or os.environ.get("TFDS_DATA_DIR")
    where: dict[str, Any] = {} if folder is None else {"data_dir": str(folder)}
    try:
        return tfds.builder(name, file_format="array_record", **where)
    except DatasetNotFoundError as error:
        close = re.search(r"-> (\S+) \?", str(error))
        hint = f"; did you mean tfds:{close[1]}?" if close else ""
        raise ValueError(
            f"TensorFlow Datasets has no {name!r}, and none is prepared in {folder}{hint}"
        ) from None
    except Exception as error:  # of many kinds: an unknown configuration, another file format
        raise ValueError(f"tfds:{name} cannot be read: {_line(error)}") from error


def _prepare(name, builder):
    """Download a set and write it as array_record; FileNotFoundError where that cannot be done here."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        for url in {urlsplit(url).hostname: url for url in builder.url_infos or ()}.values():
            check_reachable(url)
        print(f"preparing tfds:{name} in {builder.data_path} (once)", file=sys.stderr)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # of many kinds: no network, no TensorFlow, a download by hand
        raise FileNotFoundError(
            f"tfds:{name} is not prepared in {builder.data_path}, and cannot be here: {_line(error)}; where there are a network "
            f"and TensorFlow, run tfds.builder({name!r}, file_format='array_record').download_and_prepare(), "
            "and set TFDS_DATA_DIR to its folder"
        ) from error


def _features(name, features):
    """Names of the image and of the label (None without one) of an example."""
    import tensorflow_datasets as tfds

    pixels = lambda f: len(f.shape) in (2, 3) and isinstance(f, tfds.features.Tensor)
    images = [key for key, f in features.items() if isinstance(f, tfds.features.Image) or pixels(f)]
    labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    pick = lambda keys, usual: usual if usual in keys else keys[0] if len(keys) == 1 else None
    if (image := pick(images, "image")) is None:
        raise ValueError(f"tfds:{name} is no set of images: its features are {', '.join(features)}")
    return image, pick(labels, "label")
