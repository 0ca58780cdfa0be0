"""The script that compresses: a report beside other programs, streams from the command line, what it refuses."""

import gzip
import json

import numpy as np
import pytest

from experiments.autoregressive import __main__ as autoregressive
from experiments.compress import __main__ as compress
from experiments.compress import lossy, others
from experiments.hierarchical import __main__ as hierarchical
from experiments.vq_vae import __main__ as vq_vae

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


@pytest.mark.slow
def test_rate_and_distortion_of_a_hierarchical_vae(tmp_path):
    pytest.importorskip("skimage")
    run = tmp_path / "run"
    sizes = {"latents": (4, 8), "widths": (16, 32), "hidden": (16, 32), "likelihood": "discretised-logistic"}
    hierarchical.run(hierarchical.Config(steps=300, batch_size=100, eval_limit=20, out=run, **sizes))
    compress.main(compress.Lossy(run, limit=100, steps=(0.5, 4)))
    rows = json.loads((run / "lossy" / "result.json").read_text())["rows"]
    assert [(row["layers"], row["step"]) for row in rows] == [(1, 2), (2, 2), (None, 0.5), (None, 4)]
    one, two, fine, coarse = rows
    assert one["bytes"] < two["bytes"] < fine["bytes"] and coarse["bytes"] < fine["bytes"]
    assert fine["psnr"] > max(one["psnr"], coarse["psnr"]) and fine["ssim"] > one["ssim"]
    for row in rows:
        assert row["JPEG 2000"] is None or row["JPEG 2000"]["bytes"] <= row["bytes"]
    assert (run / "lossy" / "images.png").exists()
    assert f"{fine['psnr']:.2f} | {fine['ssim']:.3f}" in (run / "lossy" / "report.md").read_text()

    stream, back = tmp_path / "x.dlvm", tmp_path / "x.npy"
    compress.encode(compress.Encode(run, out=stream, lossy=True, layers=1))
    compress.decode(compress.Decode(run, stream, out=back, seed=0))
    assert np.load(back).dtype == np.float32


@pytest.mark.slow
def test_a_vq_vae_is_taken_under_the_learned_prior_or_the_uniform_one(tmp_path):
    run, stream, back = tmp_path / "run", tmp_path / "x.dlvm", tmp_path / "x.npy"
    sizes = {"codes": 8, "width": 8, "depth": 1, "prior": "made", "prior_width": 8, "prior_depth": 1}
    vq_vae.run(vq_vae.Config(steps=100, prior_steps=100, eval_limit=20, out=run, **sizes))
    rng = np.random.RandomState(0)
    np.save(tmp_path / "mine.npy", rng.randint(0, 2, (5, 8, 8, 1)).astype(np.uint8))
    sizes = []
    for uniform in (True, False):
        options = {"out": stream, "lossy": True, "uniform": uniform}
        compress.encode(compress.Encode(run, **options))
        compress.decode(compress.Decode(run, stream, out=back, uniform=uniform))
        sizes.append(stream.stat().st_size)
        compress.encode(compress.Encode(run, tmp_path / "mine.npy", out=stream, uniform=uniform))
        compress.decode(compress.Decode(run, stream, out=back, uniform=uniform))
        np.testing.assert_array_equal(np.load(back), np.load(tmp_path / "mine.npy"))
    assert sizes[1] < sizes[0]
    with pytest.raises(ValueError, match="give the folder of the run"):
        compress.decode(compress.Decode(run, stream, uniform=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_other_programs_give_images_back_in_at_most_so_many_bytes(channels):
    """Waves: nearly themselves in many bytes, worse in fewer; each tile comes back at its own place."""
    y, x = np.mgrid[:16, :16] / 15
    waves = [0.5 + a / 2 * np.sin(9 * y * a + 7 * x * (1 - a)) for a in np.linspace(0.2, 1, 30)]
    images = np.stack(waves)[..., None].repeat(channels, -1).astype(np.float32)
    for name in others.LOSSY:
        (small, coarse), (large, fine) = (others.lossy(name, images, size) for size in (800, 2000))
        assert small <= 800 < large <= 2000 and fine.shape == images.shape
        errors = [np.abs(back - images).mean() for back in (coarse, fine)]
        assert errors[1] < 0.03 and errors[1] < errors[0] < 0.06
        assert others.lossy(name, images, 50) is None


def test_distortion_is_that_of_the_formula():
    pytest.importorskip("skimage")
    rng = np.random.RandomState(0)
    images = rng.rand(3, 8, 8, 1).astype(np.float32)
    found = lossy.distortion(images + 0.1, images)
    assert found["psnr"] == pytest.approx(20, abs=1e-4)
    assert lossy.distortion(images, images)["ssim"] == pytest.approx(1)
    assert 0.8 < found["ssim"] < 1
    with pytest.raises(ValueError, match="limit and batch are at least 1"):
        compress.measure_loss(compress.Lossy(None, limit=0))
