"""Memory-mapped data: the same as in memory, and never read as a whole."""

import tracemalloc

import jax
import numpy as np
import pytest

from dlvm_jax import data, recipes, train
from dlvm_jax.data import dataset, files


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "x.npy", np.random.RandomState(0).randint(0, 256, (60, 5, 4, 3), np.uint8))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("protocol", ["levels", "dequantised", "binarised", "scaled"])
def test_a_mapped_file_gives_the_same_data(path, protocol, monkeypatch):
    """Blocks of one example also."""
    plain = data.load(path, protocol)
    monkeypatch.setattr(dataset, "BLOCK", 1)
    mapped = data.load(path, protocol, mmap=True)
    assert mapped.spec == plain.spec and mapped.protocol == plain.protocol
    for one, other in zip(mapped[1:4], plain[1:4], strict=True):
        np.testing.assert_array_equal(one, other)
    index = np.array([[3, 1], [7, 7]])
    np.testing.assert_array_equal(mapped.train[index], plain.train[index])
    np.testing.assert_array_equal(mapped.train[5:9], plain.train[5:9])
    np.testing.assert_array_equal(mapped.train[-1], plain.train[-1])
    np.testing.assert_array_equal(jax.numpy.asarray(mapped.train), plain.train)
    assert (len(mapped.train), mapped.train.shape, mapped.train.ndim, mapped.train.nbytes) == (
        len(plain.train),
        plain.train.shape,
        plain.train.ndim,
        plain.train.nbytes,
    )


def test_other_types_are_cast_as_they_are_gathered(path, tmp_path):
    x = np.load(path)
    for dtype, kept in ((np.int64, np.uint8), (np.float64, np.float32), (np.bool_, np.uint8)):
        np.save(tmp_path / "y.npy", x.astype(dtype))
        mapped, plain = (data.load(tmp_path / "y.npy", mmap=mmap) for mmap in (True, False))
        assert (
            mapped.train.dtype
            == mapped.train[:3].dtype
            == np.asarray(mapped.train).dtype
            == plain.train.dtype
            == kept
        )
        np.testing.assert_array_equal(mapped.train, plain.train)
        assert mapped.protocol.hash == plain.protocol.hash


def test_a_mapped_array_with_its_own_parts_stays_itself(path):
    mapped = np.load(path, mmap_mode="r")
    found = data.from_arrays(mapped, valid=np.asarray(mapped[:5]), test=np.asarray(mapped[:7]))
    assert isinstance(found.train, np.memmap) and np.shares_memory(found.train, mapped)


def test_large_files_are_mapped_without_being_asked(path, monkeypatch):
    assert isinstance(data.load(path).train, np.ndarray)
    monkeypatch.setattr(files, "LARGE", 1000)
    assert isinstance(data.load(path).train, data.Rows)
    assert isinstance(data.load(path, mmap=False).train, np.ndarray)


def test_a_mapped_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    """64 MB in double precision, cast to 32; validation and test are a fifth of it, 6.4 MB; blocks of 1 MB."""
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (20_000, 400))
    file[0, 0] = 2
    file.flush()
    monkeypatch.setattr(dataset, "BLOCK", 2**20)

    def peak(mmap):
        tracemalloc.start()
        found = data.load(tmp_path / "x.npy", "real", mmap=mmap)
        assert len(found.train) == 16_000 and len(found.train[:100]) == 100
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(True) < 20e6 and peak(False) > 64e6


def test_training_reads_a_mapped_file_in_pieces(path, tmp_path, monkeypatch):
    """Never as a whole, and with the parameters of training on the array from the host, bit for bit."""
    recipe = recipes.VAE(latent_dim=2, hidden=(8,), likelihood="discretised-logistic")
    settings = {"steps": 4, "batch_size": 8, "progress": False, "on_device": False}
    plain = train.fit(recipe, data.load(path), out=tmp_path / "plain", **settings)
    mapped = data.load(path, mmap=True)

    def refuse(*_):
        raise AssertionError("all examples were read")

    monkeypatch.setattr(data.Rows, "__array__", refuse)
    streamed = train.fit(recipe, mapped, out=tmp_path / "mapped", **settings)
    jax.tree.map(np.testing.assert_array_equal, streamed.params, plain.params)
