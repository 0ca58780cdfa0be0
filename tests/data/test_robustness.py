"""Preparing and reading under adverse conditions: killed, two at once, damaged, mixed up; and noise at the bins' edges."""

import functools
import hashlib
import http.server
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from dlvm_jax import data
from dlvm_jax.data import builders, sources
from dlvm_jax.data.protocol import TRANSFORMS

SLOW_READER = """
import sys, time
from dlvm_jax.data import builders, sources
def slowly(folder, read=sources.SOURCES["digits"].read):
    splits = read(folder)
    print("reading", flush=True, file=sys.__stdout__)
    time.sleep(float(sys.argv[2]))
    return splits
sources.SOURCES["digits"] = sources.SOURCES["digits"]._replace(read=slowly)
print("images", builders.read_prepared("digits", sys.argv[1])["train"][0].sum(), flush=True)
"""


def unreachable(url):
    raise ConnectionError("no network")


def start(cache, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_READER, str(cache), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for(process, word):
    line = ""
    while word not in line:
        line = process.stdout.readline()
        assert line, "the process ended early"


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_whole(tmp_path):
    process = start(tmp_path, 60)
    wait_for(process, "reading")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert builders.read_prepared("digits", tmp_path)["train"][0].shape == (1797, 8, 8, 1)
    assert not list(tmp_path.rglob("incomplete.*"))


def test_two_processes_prepare_once(tmp_path):
    first, second = start(tmp_path, 0.5), start(tmp_path, 0.5)
    texts = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert all("images 561718" in text for text in texts)  # the sum of all grey levels
    assert sum("preparing" in text for text in texts) == sum("reading" in text for text in texts) == 1


def test_a_prepared_set_is_read_without_writing(tmp_path):
    """So a cache can be shared read-only."""
    builders.read_prepared("digits", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    builders.read_prepared("digits", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_damaged_metadata_are_refused_with_what_to_do(tmp_path, harm):
    builders.read_prepared("digits", tmp_path)
    (info,) = tmp_path.rglob("dataset_info.json")
    if harm == "cut":
        info.write_text("{")
    else:
        info.unlink()
        next(tmp_path.rglob("features.json")).unlink()
    with pytest.raises(
        ValueError, match=r"prepared copy of digits is damaged .* delete .*digits.1\.0\.0 and"
    ):
        builders.read_prepared("digits", tmp_path)


@pytest.fixture
def frey_site(tmp_path, monkeypatch):
    """A server on this machine with one file, and the Frey faces to come from there: (the file, its content)."""
    from scipy.io import savemat

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    site = tmp_path / "site"
    site.mkdir()
    file = site / "frey_rawface.mat"
    savemat(file, {"ff": np.arange(3 * 560).reshape(560, 3).astype(np.uint8)})
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{file.name}"
    known = sources.File(address, hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(sources.SOURCES, "freyfaces", sources.SOURCES["freyfaces"]._replace(files=(known,)))
    monkeypatch.delenv("DLVM_DATA", raising=False)
    yield file, file.read_bytes()
    server.shutdown()
    server.server_close()


def test_a_download_that_was_cut_short_is_fetched_anew(tmp_path, frey_site):
    file, content = frey_site
    file.write_bytes(content[:50])
    with pytest.raises(ValueError, match="was cut short"):
        builders.read_prepared("freyfaces", tmp_path / "cache")
    file.write_bytes(content)
    assert builders.read_prepared("freyfaces", tmp_path / "cache")["train"][0].shape == (3, 28, 20, 1)
    assert not (tmp_path / "cache" / "downloads" / "freyfaces").exists()


def test_a_download_that_is_no_such_file_is_fetched_anew(tmp_path, frey_site, monkeypatch):
    """Where no sum is known, it is noticed as it is read."""
    file, content = frey_site
    source = sources.SOURCES["freyfaces"]
    unknown = source._replace(files=tuple(known._replace(sha256=None) for known in source.files))
    monkeypatch.setitem(sources.SOURCES, "freyfaces", unknown)
    file.write_text("<html>please log in</html>")
    with pytest.raises(ValueError, match=r"files of freyfaces as downloaded from http.* cannot be read"):
        builders.read_prepared("freyfaces", tmp_path / "cache")
    file.write_bytes(content)
    assert builders.read_prepared("freyfaces", tmp_path / "cache")["train"][0].shape == (3, 28, 20, 1)


def test_a_file_the_server_lacks_is_one_clear_line(tmp_path, frey_site):
    frey_site[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"freyfaces are not here .*404.*set DLVM_DATA") as caught:
        builders.read_prepared("freyfaces", tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_proxy_is_what_must_be_reachable(frey_site, monkeypatch):
    address = sources.SOURCES["freyfaces"].files[0].url
    host = address.rsplit("/", 1)[0]
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", host)
    builders.check_reachable("http://no-such-host.invalid/file")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1 cannot be reached"):
        builders.check_reachable(address)


def test_damaged_and_missing_local_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DLVM_DATA", str(tmp_path))
    monkeypatch.setattr(builders, "check_reachable", unreachable)
    (tmp_path / "freyfaces").mkdir()
    (tmp_path / "freyfaces" / "frey_rawface.mat").write_bytes(b"MATLAB")
    with pytest.raises(ValueError, match=r"files of freyfaces in .*freyfaces cannot be read .*intact"):
        builders.read_prepared("freyfaces", tmp_path / "cache")
    (tmp_path / "mnist").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no train-images-idx3-ubyte\.gz or train-images-idx3-ubyte in"
    ):
        builders.read_prepared("mnist", tmp_path / "cache")


def test_one_set_is_never_taken_for_another(tmp_path, monkeypatch):
    """MNIST and Fashion-MNIST have the same file names: only the folder tells them apart."""
    for prefix in ("train", "t10k"):
        head = np.array([0x803, 1, 28, 28], ">u4").tobytes()
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(head + bytes(784))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, 1], ">u4").tobytes() + bytes(1)
        )
    monkeypatch.setenv("DLVM_DATA", str(tmp_path))
    monkeypatch.setattr(builders, "check_reachable", unreachable)
    with pytest.raises(FileNotFoundError, match="has no fashion_mnist"):
        builders.read_prepared("fashion_mnist", tmp_path / "cache")


@pytest.mark.parametrize("level", [0, 128, 255])
def test_dequantised_levels_stay_strictly_inside_their_bins(level):
    """Four million draws each way; noise of full float32 precision leaves the bin about once in 130,000 draws at 255."""
    raw = np.full(4_000_000, level, np.uint8)
    transform = TRANSFORMS["dequantised"]
    for x in (
        np.asarray(jax.jit(transform.train(256))(jax.random.key(0), raw)),
        transform.fixed(256, np.random.RandomState(0), raw),
    ):
        assert x.dtype == np.float32 and x.min() > 0 and x.max() < 1
        np.testing.assert_array_equal(np.floor(x * 256), level)
        noise = x.astype(np.float64) * 256 - level  # mean 1/2 and variance 1/12, within five deviations
        assert abs(noise.mean() - 0.5) < 5 * np.sqrt(1 / 12 / x.size)
        assert abs(noise.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / x.size)


def test_the_hash_of_a_protocol_is_the_same_on_every_machine():
    """Recorded results carry it; change it only together with what a model sees."""
    assert data.protocols("digits")[0].with_hash("0" * 64).hash == "e89daf7fdcf6"
