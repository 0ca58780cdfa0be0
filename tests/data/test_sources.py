"""Readers of the original files, on small files written here; and the sums of the real arrays where they are at hand."""

import hashlib
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from dlvm_jax.data import sources

CIFAR = {  # examples without 98 of which there were lossy copies only, and SHA-256 of them, uint8 in C order
    "train": (49923, "72cce59ffeb64e6ed80e1ec453810641e707e56d224fd1e07b34c169c38182f9"),
    "test": (9979, "5993e9031f207848c0c17f9ac827c7cc11d8d6679a6d7134e109b4d6e9791955"),
}


def local(name):
    """The folder of a set below DLVM_DATA; skips the test without it."""
    folder = os.path.join(os.environ.get("DLVM_DATA", ""), name)
    if "DLVM_DATA" not in os.environ or not os.path.isdir(folder):
        pytest.skip(f"DLVM_DATA names no folder with {name}")
    return folder


def test_amat_text(tmp_path):
    bits = {
        s: np.random.RandomState(i).randint(0, 2, (5, 784)) for i, s in enumerate(("train", "valid", "test"))
    }
    for split, x in bits.items():
        lines = "".join(" ".join(map(str, row)) + " \n" for row in x)
        (tmp_path / f"binarized_mnist_{split}.amat").write_text(lines)
    read = sources.SOURCES["binarized_mnist"].read(tmp_path)
    for split, x in bits.items():
        images, labels = read[split]
        np.testing.assert_array_equal(images.reshape(-1, 784), x)
        assert images.shape == (5, 28, 28, 1) and images.dtype == np.uint8 and labels is None


def test_unpacked_idx(tmp_path):
    rng = np.random.RandomState(0)
    images, labels = rng.randint(0, 256, (3, 28, 28), np.uint8), np.array([7, 1, 2], np.uint8)
    for prefix in ("train", "t10k"):
        head = np.array([0x803, 3, 28, 28], ">u4").tobytes()
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = np.array([0x801, 3], ">u4").tobytes()
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    read = sources.SOURCES["mnist"].read(tmp_path)
    np.testing.assert_array_equal(read["test"][0][..., 0], images)
    np.testing.assert_array_equal(read["train"][1], labels)
    assert read["train"][1].dtype == np.int32


def test_frey_matlab_file(tmp_path):
    from scipy.io import savemat

    images = np.random.RandomState(0).randint(0, 256, (4, 28, 20), np.uint8)
    savemat(tmp_path / "frey_rawface.mat", {"ff": images.reshape(4, 560).T})
    np.testing.assert_array_equal(sources.SOURCES["freyfaces"].read(tmp_path)["train"][0][..., 0], images)


def test_cifar_archive(tmp_path):
    rng = np.random.RandomState(0)
    images, labels = rng.randint(0, 256, (12, 32, 32, 3), np.uint8), rng.randint(0, 10, 12, np.uint8)
    parts = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for i, name in enumerate(parts):
            rows = (
                images[2 * i : 2 * i + 2].transpose(0, 3, 1, 2).reshape(2, -1)
            )  # planes R, G, B, row by row
            body = np.concatenate([labels[2 * i : 2 * i + 2, None], rows], 1).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    read = sources.SOURCES["cifar10"].read(tmp_path)
    np.testing.assert_array_equal(np.concatenate([read["train"][0], read["test"][0]]), images)
    np.testing.assert_array_equal(np.concatenate([read["train"][1], read["test"][1]]), labels)


def test_omniglot_archives(tmp_path):
    """Black ink on white in the files; characters in the order of their numbers, whatever the order in the archive."""
    from PIL import Image

    ink = np.random.RandomState(0).randint(0, 2, (40, 105, 105)).astype(bool)
    for part in ("background", "evaluation"):
        with zipfile.ZipFile(tmp_path / f"images_{part}.zip", "w") as archive:
            for i in reversed(range(40)):
                picture = io.BytesIO()
                Image.fromarray(~ink[i]).save(picture, "PNG")
                alphabet = "Zulu" if i < 20 else "Alpha"  # the archive sorts by alphabet, the numbers do not
                name = f"images_{part}/{alphabet}/character01/{i // 20 + 1:04d}_{i % 20 + 1:02d}.png"
                archive.writestr(name, picture.getvalue())
    read = sources.SOURCES["omniglot"].read(tmp_path)
    # the area mean of a pixel of 3.75 x 3.75, by quartering every original pixel
    fine = np.kron(ink, np.ones((1, 4, 4), bool)).reshape(40, 28, 15, 28, 15).mean((2, 4))
    np.testing.assert_array_equal(read["train"][0][..., 0], np.rint(255 * fine).astype(np.uint8))
    np.testing.assert_array_equal(read["test"][1], np.repeat([0, 1], 20))


def test_olivetti_matlab_file(tmp_path):
    """A column of the file is an image, itself column by column; ten images a person."""
    from scipy.io import savemat

    images = np.random.RandomState(0).randint(0, 256, (20, 64, 64), np.uint8)
    savemat(tmp_path / "olivettifaces.mat", {"faces": images.transpose(0, 2, 1).reshape(20, -1).T})
    found, persons = sources.SOURCES["olivetti"].read(tmp_path)["train"]
    np.testing.assert_array_equal(found[..., 0], images)
    np.testing.assert_array_equal(persons, np.repeat([0, 1], 10))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_files_have_the_published_sums(name):
    folder = local(name)
    for file in sources.SOURCES[name].files:
        with open(os.path.join(folder, file.name), "rb") as opened:
            assert hashlib.sha256(opened.read()).hexdigest() == file.sha256
    read = sources.SOURCES[name].read(folder)
    assert read["train"][0].shape == (60000, 28, 28, 1) and read["test"][0].shape == (10000, 28, 28, 1)
    assert list(np.bincount(read["test"][1]))[:3] == ([980, 1135, 1032] if name == "mnist" else [1000] * 3)


def test_static_mnist_parts_have_the_published_sums():
    read = sources.SOURCES["binarized_mnist"].read(local("binarized_mnist"))
    for file, split in zip(sources.SOURCES["binarized_mnist"].files, ("train", "valid", "test"), strict=True):
        bits = read[split][0].reshape(-1, 784)
        text = np.full((len(bits), 1568), ord(" "), np.uint8)
        text[:, 0::2], text[:, -1] = bits + ord("0"), ord("\n")
        assert hashlib.sha256(text.tobytes()).hexdigest() == file.sha256


@pytest.mark.slow
def test_cifar_images_are_those_of_the_recorded_results():
    for split, (images, labels) in sources.SOURCES["cifar10"].read(local("cifar10")).items():
        count, digest = CIFAR[split]
        assert len(labels) == len(images) and set(labels) == set(range(10))
        if len(images) == count:  # the published archive has 98 more, and a sum of its own
            assert hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest() == digest
