"""How many bytes other programs need for the same examples, and what JPEG makes of as many bytes as a model's."""

import bisect
import bz2
import gzip
import io
import lzma
import math

import numpy as np
from PIL import Image

from dlvm_jax.evaluate.pictures import image_grid

__all__ = ["LOSSY", "lossy", "sizes"]

LOSSY = ("JPEG", "JPEG 2000")
QUALITIES = range(1, 96)


def sizes(x: np.ndarray, levels: int) -> dict[str, int]:
    """Bytes by program, of examples [N, *event] with integer levels.

    General programs get the levels as bytes, eight bits in one; image formats get all images as one mosaic, so that headers do
    not decide.
    """
    x = np.asarray(x).astype(np.uint16 if levels > 256 else np.uint8)
    raw = np.packbits(x).tobytes() if levels == 2 else x.tobytes()
    found = {
        "gzip": len(gzip.compress(raw, 9)),
        "bzip2": len(bz2.compress(raw, 9)),
        "xz": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }
    if x.ndim == 4 and x.shape[-1] in (1, 3) and levels <= 256:
        tiles = image_grid(x, math.ceil(math.sqrt(len(x)))).astype(np.uint8)
        image = Image.fromarray(tiles.squeeze(-1) if x.shape[-1] == 1 else tiles)
        if levels == 2:
            image = Image.fromarray(tiles.squeeze(-1) * 255).convert("1")
        found |= {
            "PNG": _size(image, "PNG", optimize=True),
            "WebP": _size(image.convert("RGB"), "WEBP", lossless=True, quality=100, method=6),
        }
        if levels > 2:
            found["JPEG 2000"] = _size(image, "JPEG2000", irreversible=False)
    return found


def _size(image, kind, **options):
    return len(_saved(image, kind, **options))


def _saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def lossy(name: str, images: np.ndarray, size: int) -> tuple[int, np.ndarray] | None:
    """Images [N, h, w, c] on [0, 1] as one mosaic in at most so many bytes: bytes used, and the images that come back.

    name: one of `LOSSY`;  None: its worst quality needs more
    """
    tiles = _mosaic(np.round(255 * images).astype(np.uint8))
    image = Image.fromarray(tiles.squeeze(-1) if tiles.shape[-1] == 1 else tiles)
    if name == "JPEG":
        save = lambda quality: _saved(image, "JPEG", quality=quality, optimize=True)
        worse = bisect.bisect_right(QUALITIES, size, key=lambda quality: len(save(quality)))
        if worse == 0:
            return None
        found = save(QUALITIES[worse - 1])
    else:
        ratio = tiles.size / size  # of the numbers alone; the header comes on top
        save = lambda ratio: _saved(
            image, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True
        )
        for _ in range(20):
            found = save(ratio)
            if len(found) <= size:
                break
            ratio *= 1.05
        else:
            return None
    back = np.asarray(Image.open(io.BytesIO(found)), np.float32) / 255
    return len(found), _tiles(back.reshape(tiles.shape), images.shape)


def _mosaic(images):
    """Images beside each other without a gap, nearly a square, filled up with the last one."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    images = np.concatenate([images, np.repeat(images[-1:], rows * columns - count, 0)])
    images = images.reshape(rows, columns, height, width, channels)
    return images.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def _tiles(mosaic, shape):
    """The images [N, h, w, c] of a mosaic."""
    count, height, width, channels = shape
    grid = mosaic.reshape(-1, height, mosaic.shape[1] // width, width, channels)
    return grid.swapaxes(1, 2).reshape(-1, height, width, channels)[:count]
