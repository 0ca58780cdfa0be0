"""The script that compresses: a report beside other programs, streams from the command line, what it refuses."""

import gzip
import json

import numpy as np
import pytest

from experiments.autoregressive import __main__ as autoregressive
from experiments.compress import __main__ as compress
from experiments.compress import others

pytest.importorskip("constriction")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    autoregressive.run(
        autoregressive.Config(hidden=(8,), likelihood="categorical", steps=20, batch_size=50, out=folder)
    )
    return folder


@pytest.mark.slow
def test_a_report_and_streams_of_a_finished_run(run, tmp_path):
    compress.evaluate(compress.Evaluate(run, limit=40, batch=16))
    result = json.loads((run / "compress" / "result.json").read_text())
    assert result["examples"] == 40 and result["payload_bits_per_dim"] == pytest.approx(
        result["model_bits_per_dim"], abs=64 / (40 * 64) + 1e-3
    )
    assert result["bits_per_dim"] > result["payload_bits_per_dim"]
    report = (run / "compress" / "report.md").read_text()
    assert f"{result['others']['PNG']:.4f}" in report and (run / "compress" / "lengths.png").exists()

    stream, back = tmp_path / "x.dlvm", tmp_path / "x.npy"
    mine = np.random.RandomState(0).randint(0, 17, (5, 8, 8, 1)).astype(np.uint8)
    np.save(tmp_path / "mine.npy", mine)
    compress.encode(compress.Encode(run, tmp_path / "mine.npy", out=stream))
    compress.decode(compress.Decode(run, stream, out=back))
    np.testing.assert_array_equal(np.load(back), mine)
    with pytest.raises(ValueError, match="limit, batch and samples are at least 1"):
        compress.evaluate(compress.Evaluate(run, limit=0))


def test_other_programs_get_the_bytes_and_bits_of_all_examples():
    rng = np.random.RandomState(0)
    grey, bits = rng.randint(0, 256, (9, 8, 8, 1)), rng.rand(16, 8, 8, 1) < 0.5
    found = others.sizes(grey, 256)
    assert found["gzip"] == len(gzip.compress(grey.astype(np.uint8).tobytes(), 9))
    assert set(found) == {"gzip", "bzip2", "xz", "PNG", "WebP", "JPEG 2000"}
    assert all(size > 9 * 64 for size in found.values())  # noise has no shorter code
    assert 128 < others.sizes(bits, 2)["PNG"] < 300  # one bit a pixel
    assert set(others.sizes(rng.randint(0, 4, (10, 5)), 4)) == {"gzip", "bzip2", "xz"}
