"""How many bytes other programs need for the same examples."""

import bz2
import gzip
import io
import lzma
import math

import numpy as np
from PIL import Image

from dlvm_jax.evaluate.pictures import image_grid

__all__ = ["sizes"]


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
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.tell()
