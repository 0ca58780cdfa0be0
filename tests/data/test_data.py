"""Data sets: counts, sums, order, protocols, fixed draws, errors."""

import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dlvm_jax import data
from dlvm_jax.data import builders, protocol, sources, toys

SUMS = {  # SHA-256 of the raw arrays, from their publishers or checked against independent copies
    "omniglot": "32b17fc95e1d2df254bab2e046f2d1f27d5d86c76ef550090a2add48aa21150d",
    "binarized train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "mnist mean": 33.318421,  # of the 60,000 training images
}


def needs(name):
    folder = os.environ.get("DLVM_DATA", "")
    present = folder and os.path.isdir(os.path.join(folder, name))
    return pytest.mark.skipif(not present, reason=f"DLVM_DATA names no folder with {name}")


def unreachable(url):
    raise ConnectionError("no network")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def digits(cache):
    return data.load("digits", cache=cache)


def test_digits_are_those_of_scikit_learn_in_their_order(digits, cache):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    raw = data.load("digits", "levels", cache)
    whole = np.concatenate([raw.train, raw.valid, raw.test])
    np.testing.assert_array_equal(whole[..., 0], bunch.images)
    labels = np.concatenate([raw.train_labels, raw.valid_labels, raw.test_labels])
    np.testing.assert_array_equal(labels, bunch.target)
    assert [len(part) for part in (digits.train, digits.valid, digits.test)] == [1000, 350, 447]
    assert (raw.levels, raw.bin_width, raw.discrete) == (17, 1.0, True)
    np.testing.assert_array_equal(digits.train, raw.train)


def test_bits_are_bernoulli_of_grey_and_fixed_for_the_test_set(digits, cache):
    """Each level's frequency of ones within 5 binomial deviations of level / 16: false alarm below 1e-5."""
    raw = data.load("digits", "levels", cache)
    keys = jax.random.split(jax.random.key(0), 50)
    bits = np.asarray(jax.vmap(lambda k: digits.preprocess(k, raw.train[:200]))(keys))
    assert set(np.unique(bits)) == {0.0, 1.0} and (bits[0] != bits[1]).any()
    for level in range(17):
        chosen = bits[:, raw.train[:200] == level]
        p = level / 16
        assert abs(chosen.mean() - p) <= 5 * np.sqrt(p * (1 - p) / chosen.size)
    assert set(np.unique(digits.test)) == {0, 1} and digits.levels == 2
    np.testing.assert_array_equal(digits.test, data.load("digits", cache=cache).test)
    assert abs(digits.test.mean() - raw.test.mean() / 16) < 5 * 0.5 / np.sqrt(digits.test.size)


def test_dequantised_data_fill_their_bins(cache):
    raw, real = data.load("digits", "levels", cache), data.load("digits", "dequantised", cache)
    np.testing.assert_array_equal(np.floor(real.test * 17), raw.test)
    train = np.asarray(real.preprocess(jax.random.key(0), raw.train))
    np.testing.assert_array_equal(np.floor(train * 17), raw.train)
    residue = (train * 17 - raw.train).ravel()  # uniform: mean 1/2, variance 1/12, five deviations
    assert abs(residue.mean() - 0.5) < 5 * np.sqrt(1 / 12 / residue.size)
    assert real.bin_width == 1 / 17 and not real.discrete
    scaled = data.load("digits", "scaled", cache)
    assert scaled.test.max() == 1 and scaled.bin_width == 1 / 16


def test_hashes_are_stable_and_tell_protocols_and_data_apart(digits):
    assert digits.protocol.hash == data.load("digits").protocol.hash
    marks = [p.with_hash("a").hash for name in data.names() for p in data.protocols(name)]
    marks += [protocol.PROTOCOLS["digits"][0].with_hash("b").hash]
    distinct = {
        (p.name, p.sizes, p.transform, p.seed, p.shuffle, p.source)
        for n in data.names()
        for p in data.protocols(n)
    }
    assert len(set(marks)) == len(distinct) + 1
    assert len(digits.protocol.hash) == 12


RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "records"


def recorded():
    """(data set, protocol, hash) of every recorded result."""
    found = set()
    for file in RESULTS.glob("*.json"):
        record = json.loads(file.read_text())
        if record.get("protocol_hash") and "data" in (record["settings"] or {}):
            found.add((record["settings"]["data"], record["protocol"], record["protocol_hash"]))
    return sorted(found)


def test_recorded_results_have_the_hashes_of_today():
    """Of the data that are at hand."""
    there = [
        (name, *rest)
        for name, *rest in recorded()
        if name in data.names() and os.path.isdir(os.path.join(os.environ.get("DLVM_DATA", ""), name))
    ]
    assert {"mnist", "fashion_mnist", "freyfaces"} <= {name for name, *_ in recorded()}
    for name, chosen, expected in there:
        assert data.load(name, chosen).protocol.hash == expected, (name, chosen)


@pytest.mark.slow
def test_recorded_toys_have_the_hashes_of_today():
    """In a process without the compiler flags of these tests, by which the last digits of samples differ."""
    expected = {name: mark for name, _, mark in recorded() if name in toys.TOYS}
    assert set(expected) == {"eight_gaussians", "checkerboard"}
    code = "from dlvm_jax import data\n" + "\n".join(
        f"print(data.load({name!r}).protocol.hash)" for name in expected
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == list(expected.values())


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_set_has_protocols_and_known_transforms(name):
    found = data.protocols(name)
    assert found and all(p.transform in protocol.TRANSFORMS and p.source for p in found)
    assert not any("soft" in p.name for p in found)


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(
        ValueError, match=r"unknown data set 'mnsit'; there are digits, .*; did you mean 'mnist'\?"
    ):
        data.load("mnsit")
    with pytest.raises(ValueError, match="unknown protocol of digits 'static'; there are dynamic, levels"):
        data.load("digits", "static")


def test_missing_files_and_no_network_are_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DLVM_DATA", str(tmp_path))
    monkeypatch.setattr(builders, "check_reachable", unreachable)
    with pytest.raises(
        FileNotFoundError,
        match=r"mnist are not here \(DLVM_DATA=.* has no mnist\) and .* set DLVM_DATA",
    ):
        data.load("mnist", cache=tmp_path / "cache")


def test_a_damaged_copy_is_refused_with_what_to_do(tmp_path):
    data.load("digits", cache=tmp_path)
    for file in (tmp_path / "dlvm_arrays").rglob("*array_record*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"prepared copy of digits is damaged .* delete .*digits"):
        data.load("digits", cache=tmp_path)


def write_idx(path, array):
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_original_files_are_downloaded_and_checked(tmp_path, monkeypatch):
    """The four IDX files from a server on this machine, through TensorFlow Datasets; then with a wrong sum."""
    import functools
    import http.server
    import threading

    site = tmp_path / "site"
    site.mkdir()
    rng = np.random.RandomState(0)
    arrays = {
        "train": rng.randint(0, 256, (30, 28, 28), np.uint8),
        "t10k": rng.randint(0, 256, (10, 28, 28), np.uint8),
    }
    for prefix, images in arrays.items():
        write_idx(site / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(site / f"{prefix}-labels-idx1-ubyte.gz", np.arange(len(images), dtype=np.uint8) % 10)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.delenv("DLVM_DATA", raising=False)
    files = tuple(
        sources.File(f"{address}/{f.name}", hashlib.sha256((site / f.name).read_bytes()).hexdigest())
        for f in sources.SOURCES["mnist"].files
    )
    monkeypatch.setitem(sources.SOURCES, "mnist", sources.SOURCES["mnist"]._replace(files=files))
    try:
        splits = builders.read_prepared("mnist", tmp_path / "cache")
        np.testing.assert_array_equal(splits["train"][0][..., 0], arrays["train"])
        np.testing.assert_array_equal(splits["test"][1], np.arange(10))
        wrong = tuple(f._replace(sha256="0" * 64) for f in files)
        monkeypatch.setitem(sources.SOURCES, "mnist", sources.SOURCES["mnist"]._replace(files=wrong))
        with pytest.raises(ValueError, match=r"has SHA-256 .* expected 000"):
            builders.read_prepared("mnist", tmp_path / "other")
    finally:
        server.shutdown()


@needs("mnist")
def test_mnist_protocols():
    tomczak, burda, davidson = (
        data.load("mnist", f"dynamic-{who}") for who in ("tomczak", "burda", "davidson")
    )
    assert [len(x) for x in tomczak[1:4]] == [50000, 10000, 10000]
    assert [len(x) for x in burda[1:4]] == [59600, 400, 10000]
    assert [len(x) for x in davidson[1:4]] == [60000, 0, 10000]
    assert davidson.train.mean() == pytest.approx(SUMS["mnist mean"], abs=1e-5)
    np.testing.assert_array_equal(davidson.train[50000:59600], burda.train[50000:])
    assert (tomczak.test != burda.test).any()
    assert list(tomczak.train_labels[:5]) == [5, 0, 4, 1, 9]


@needs("binarized_mnist")
def test_static_mnist_is_the_published_text_byte_for_byte():
    train = data.load("binarized_mnist").train.reshape(-1, 784)
    text = np.full((len(train), 1568), ord(" "), np.uint8)
    text[:, 0::2], text[:, -1] = train + ord("0"), ord("\n")
    assert hashlib.sha256(text.tobytes()).hexdigest() == SUMS["binarized train"]


@pytest.mark.slow
@needs("omniglot")
def test_omniglot_arrays():
    splits = builders.read_prepared("omniglot")
    whole = np.concatenate([splits["train"][0], splits["test"][0]])
    assert hashlib.sha256(whole.tobytes()).hexdigest() == SUMS["omniglot"]


@needs("freyfaces")
def test_frey_faces_follow_the_published_permutation():
    found = data.load("freyfaces")
    raw = builders.read_prepared("freyfaces")["train"][0]
    order = np.random.RandomState(123).permutation(1965)
    np.testing.assert_array_equal(found.test, raw[order[-200:]])
    np.testing.assert_array_equal(found.train, raw[order[:1565]])


@needs("olivetti")
def test_olivetti_faces_are_split_by_a_permutation_with_their_persons():
    found = data.load("olivetti")
    assert found.spec[3:8] == ((64, 64, 1), 320, 256, True, 1.0) and found.spec.classes == 40
    raw, persons = builders.read_prepared("olivetti")["train"]
    order = np.random.RandomState(777).permutation(400)
    np.testing.assert_array_equal(found.valid, raw[order[320:360]])
    np.testing.assert_array_equal(found.test_labels, persons[order[360:]])
    np.testing.assert_array_equal(persons, np.repeat(np.arange(40), 10))
    # photographs of one person are alike: their mean squared distance is below that of different people
    flat = raw.reshape(40, 10, -1).astype(float)
    within, between = flat.var(1).mean(), flat.mean(1).var(0).mean()
    assert within < between


@pytest.mark.slow
@needs("cifar10")
def test_cifar_arrays():
    found = data.load("cifar10")
    # all of the published 50,000 and 10,000, or less the 98 of which this project had lossy copies only
    assert [len(x) for x in found[1:4]] in ([45000, 5000, 10000], [45000, 4923, 9979])
    assert found.train.shape[1:] == (32, 32, 3)
    # published means of the 50,000 training images 0.4914, 0.4822, 0.4465; 45,000 of them differ by sampling
    np.testing.assert_allclose(found.train.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=1e-3)
