"""Readers of the original files, with numpy and the standard library: raw integer images and labels, nothing transformed.

Each reader takes a folder of the files that the authors publish.
"""

import gzip
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

__all__ = ["SOURCES", "File", "Source", "Splits"]

Splits = Mapping[str, tuple[np.ndarray, np.ndarray | None]]  # images uint8 [n, h, w, c] and labels int32 [n]


class File(NamedTuple):
    """An original file: its address and SHA-256 (None where the authors give none)."""

    url: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """File name without the address."""
        return self.url.rsplit("/", 1)[-1]


class Source(NamedTuple):
    """A data set as published: `read(folder) -> Splits`, number of grey levels, original files, citation."""

    read: Callable[[Path | str | None], Splits]
    levels: int
    files: tuple[File, ...]
    citation: str


def _open(folder, *names) -> BinaryIO:
    """The first of the named files in a folder, opened (and unpacked); FileNotFoundError names them all."""
    for name in names:
        path = Path(folder) / name
        if path.exists():
            return cast(BinaryIO, (gzip.open if path.suffix == ".gz" else open)(path, "rb"))
    raise FileNotFoundError(f"no {' or '.join(names)} in {folder}")


def _digits(_folder):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return {"train": (images.astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int32))}


def _idx(folder, name, ndim):
    with _open(folder, f"{name}.gz", name) as file:
        data = file.read()
    header = 4 + 4 * ndim
    shape = np.frombuffer(data, ">u4", ndim, offset=4)
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _mnist(folder):
    return {
        split: (
            _idx(folder, f"{prefix}-images-idx3-ubyte", 3)[..., None],
            _idx(folder, f"{prefix}-labels-idx1-ubyte", 1).astype(np.int32),
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def _binarized_mnist(folder):
    splits = {}
    for split in ("train", "valid", "test"):
        with _open(folder, f"binarized_mnist_{split}.amat") as file:
            digits = np.frombuffer(file.read(), np.uint8)
        bits = digits[(digits == ord("0")) | (digits == ord("1"))] - ord("0")
        splits[split] = (bits.reshape(-1, 28, 28, 1), None)
    return splits


def _area_28(drawings):
    """Exact area averages of 105 x 105 bits on a 28 x 28 grid, as grey levels 0..255."""
    weights = np.repeat(np.eye(105), 4, axis=0).reshape(28, 15, 105).mean(1)
    return np.rint(255 * (weights @ drawings @ weights.T)).astype(np.uint8)[..., None]


def _omniglot_drawings(folder, part):
    """Drawings [n, 105, 105] of a part, ink 1, in the order of the numbers of their characters."""
    from PIL import Image

    with _open(folder, f"images_{part}.zip") as file, zipfile.ZipFile(file) as archive:
        pages = sorted(
            (n for n in archive.namelist() if n.endswith(".png")), key=lambda n: n.rsplit("/", 1)[-1]
        )
        return np.stack([1 - np.asarray(Image.open(archive.open(page))).astype(np.uint8) for page in pages])


def _omniglot(folder):
    parts = {}
    for split, part in (("train", "background"), ("test", "evaluation")):
        drawings = _omniglot_drawings(folder, part)
        images = np.concatenate([_area_28(drawings[i : i + 1000]) for i in range(0, len(drawings), 1000)])
        parts[split] = (images, np.repeat(np.arange(len(images) // 20, dtype=np.int32), 20))
    return parts


def _matlab(folder, name, key):
    """An array of a MATLAB file whose columns are the examples, examples first."""
    from scipy.io import loadmat

    with _open(folder, name) as file:
        return loadmat(file)[key].T


def _freyfaces(folder):
    return {"train": (_matlab(folder, "frey_rawface.mat", "ff").reshape(-1, 28, 20, 1), None)}


def _olivetti(folder):
    """Ten photographs of each of 40 people, in this order; the file holds each image column by column."""
    images = _matlab(folder, "olivettifaces.mat", "faces").reshape(-1, 64, 64).transpose(0, 2, 1)
    return {"train": (images[..., None], np.arange(len(images), dtype=np.int32) // 10)}


def _cifar10(folder):
    with _open(folder, "cifar-10-binary.tar.gz") as file, tarfile.open(fileobj=file) as archive:

        def batch(name):
            rows = np.frombuffer(
                cast(BinaryIO, archive.extractfile(f"cifar-10-batches-bin/{name}.bin")).read(), np.uint8
            )
            rows = rows.reshape(-1, 3073)
            return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0].astype(np.int32)

        train = [batch(f"data_batch_{i}") for i in range(1, 6)]
        return {
            "train": tuple(np.concatenate(part) for part in zip(*train, strict=True)),
            "test": batch("test_batch"),
        }


def _idx_files(address, sums):
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(File(f"{address}/{name}-ubyte.gz", digest) for name, digest in zip(names, sums, strict=True))


SOURCES = {
    "digits": Source(
        _digits, 17, (), "Alpaydin & Kaynak 1998, optical recognition of handwritten digits (scikit-learn)"
    ),
    "mnist": Source(
        _mnist,
        256,
        _idx_files(
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        "LeCun, Cortes, Burges 1998",
    ),
    "fashion_mnist": Source(
        _mnist,
        256,
        _idx_files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        "Xiao, Rasul, Vollgraf 2017",
    ),
    "binarized_mnist": Source(
        _binarized_mnist,
        2,
        tuple(
            File(
                f"http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_{split}.amat",
                digest,
            )
            for split, digest in (
                ("train", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
                ("valid", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
                ("test", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
            )
        ),
        "Larochelle & Murray 2011",
    ),
    "omniglot": Source(
        _omniglot,
        256,
        tuple(
            File(f"https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_{part}.zip")
            for part in ("background", "evaluation")
        ),
        "Lake, Salakhutdinov, Tenenbaum 2015",
    ),
    "freyfaces": Source(
        _freyfaces, 256, (File("https://cs.nyu.edu/~roweis/data/frey_rawface.mat"),), "Roweis & Saul 2000"
    ),
    "olivetti": Source(
        _olivetti, 256, (File("https://cs.nyu.edu/~roweis/data/olivettifaces.mat"),), "Samaria & Harter 1994"
    ),
    "cifar10": Source(
        _cifar10,
        256,
        (
            File(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        "Krizhevsky 2009",
    ),
}
