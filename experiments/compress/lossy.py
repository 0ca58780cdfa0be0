"""Rate and distortion of a model's streams with loss, beside JPEG at equal bytes: the measurement, pictures and a report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlvm_jax import coding
from dlvm_jax.coding import Loss
from dlvm_jax.data import Data
from dlvm_jax.evaluate import pictures
from dlvm_jax.models.top_down import TopDown
from dlvm_jax.models.vae import Parts
from dlvm_jax.recipes.networks import top
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder, manifest
from experiments.compress import others

if TYPE_CHECKING:
    from experiments.compress.__main__ import Lossy

__all__ = ["distortion", "measure_and_write"]

WINDOW, LAYERS, SHOWN = 7, 8, 12  # of SSIM; at most so many numbers of layers kept; images of the picture


def measure_and_write(config: "Lossy", fitted: Fitted, data: Data, out: Path) -> dict[str, Any]:
    """Code test images with several losses and decode them; result.json, curves.png, images.png and report.md in a folder.

    Raises ValueError for data that are no images of levels.
    """
    x = np.asarray(data.test[: config.limit])
    if not fitted.spec.discrete or x.ndim != 4 or x.shape[-1] not in (1, 3) or min(x.shape[1:3]) < WINDOW:
        raise ValueError(
            f"JPEG is of grey or colour images of levels, at least {WINDOW} pixels wide and high, the examples are of shape "
            f"{x.shape[1:]}; use `evaluate`"
        )
    scale = top(fitted.spec)
    images = x.astype(np.float32) / scale
    rows, streams = [], []
    for loss in _losses(fitted, config.steps):
        stream = coding.encode(fitted, x, config.batch, loss)
        back = np.clip(coding.decode(fitted, stream) / scale, 0, 1)
        row = {**dataclasses.asdict(loss), **_measured(len(stream), back, images)}
        for name in others.LOSSY:
            found = others.lossy(name, images, len(stream))
            row[name] = found and _measured(*found, images)
        rows.append(row)
        streams.append(stream)
    result = {"examples": len(x), "rows": rows, "protocol": data.protocol.hash, **manifest()}
    RunFolder(out).write("result.json", result)
    _curves(rows, out / "curves.png")
    nearest = min(range(len(rows)), key=lambda i: abs(np.log(rows[i]["bits_per_dim"] / config.bits)))
    _images(fitted, streams[nearest], rows[nearest], images, scale, out / "images.png")
    (out / "report.md").write_text(_report(config, data, result, rows[nearest]))
    print(f"{len(x)} images at {len(rows)} rates, report in {out / 'report.md'}")
    return result


def _losses(fitted: Fitted, steps: Sequence[float]) -> list[Loss]:
    """Those to measure: of latent numbers several widths of cells, and of several layers fewer of them."""
    parts = fitted.model.parts
    if not isinstance(parts, Parts | TopDown):
        return [Loss()]
    count = parts.layers if isinstance(parts, TopDown) else 1
    kept = np.unique(np.linspace(1, count, min(count, LAYERS)).round().astype(int))[:-1]
    return [*(Loss(int(layers)) for layers in kept), *(Loss(step=step) for step in steps)]


def distortion(images: np.ndarray, originals: np.ndarray) -> dict[str, float]:
    """PSNR in dB, of the mean squared error of all images [N, h, w, c] on [0, 1], and the mean SSIM of each.

    Raises ValueError without scikit-image.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ValueError("SSIM needs scikit-image: pip install 'dlvm_jax[restoration]'") from None
    error = np.mean((images - originals) ** 2, dtype=np.float64)
    each = [
        structural_similarity(a, b, win_size=WINDOW, data_range=1.0, channel_axis=-1)
        for a, b in zip(images, originals, strict=True)
    ]
    return {"psnr": float(-10 * np.log10(max(error, 1e-10))), "ssim": float(np.mean(each))}


def _measured(size, images, originals):
    return {"bytes": size, "bits_per_dim": 8 * size / originals.size, **distortion(images, originals)}


def _curves(rows, path):
    """PSNR and SSIM over bits a dimension, of the model and of the others at its bytes."""
    series = {"this model": rows, **{name: [row[name] for row in rows] for name in others.LOSSY}}
    figure = pictures.new_figure(figsize=(9, 4), layout="constrained")
    for axes, what, label in zip(figure.subplots(1, 2), ("psnr", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
        for name, found in series.items():
            points = sorted((row["bits_per_dim"], row[what]) for row in found if row)
            axes.plot(*np.array(points).reshape(-1, 2).T, "o-", ms=4, label=name)
        axes.set(xscale="log", xlabel="bits/dim", ylabel=label)
    axes.legend()
    figure.savefig(path, dpi=120)


def _images(fitted, stream, row, images, scale, path):
    """Originals, what the model makes of a stream, and what the others make of as many bytes."""
    shown = {"original": images, "model": coding.decode(fitted, stream) / scale}
    if row["layers"]:
        shown["model, a draw"] = coding.decode(fitted, stream, seed=0) / scale
    for name in reversed(others.LOSSY):
        found = others.lossy(name, images, len(stream))
        if found:
            shown[name] = found[1]
    first = [each[:SHOWN] for each in shown.values()]
    title = f"{row['bits_per_dim']:.2f} bits/dim"
    columns = min(SHOWN, len(images))
    scale = max(1, round(720 / (columns * images.shape[2])))
    pictures.grid(path, np.concatenate(first), columns, title, scale=scale, beside=list(shown))


def _report(config, data, result, nearest):
    def cells(row):
        return f"{row['psnr']:.2f} | {row['ssim']:.3f}" if row else "- | -"

    def line(row):
        kept = row["layers"] or "all"
        others_cells = " | ".join(cells(row[name]) for name in others.LOSSY)
        return f"| {kept} | {row['step']:g} | {row['bits_per_dim']:.4f} | {cells(row)} | {others_cells} |"

    heads = " | ".join(f"{name}: PSNR | SSIM" for name in others.LOSSY)
    table = "\n".join(line(row) for row in sorted(result["rows"], key=lambda row: row["bits_per_dim"]))
    return f"""# {result["examples"]} test images of {data.name} with loss

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).  Model: `{config.run}`.

Rates are those of whole files, which were decoded again.  JPEG and JPEG 2000 got one mosaic of all images, and at most as many
bytes.  PSNR in dB is of the mean squared error over all images, SSIM the mean over images (windows of {WINDOW} x {WINDOW}).
Layers kept are those from the top, the others are at the means of their priors.  Cells are `step` standard deviations of the
posterior wide.

| layers | step | bits/dim | PSNR | SSIM | {heads} |
|---|---|---|---|---|{"---|" * 2 * len(others.LOSSY)}
{table}

-: the worst quality needs more bytes.

![curves](curves.png)

Files of {nearest["bits_per_dim"]:.2f} bits/dim:

![images](images.png)

Versions and device: `result.json`.
"""
