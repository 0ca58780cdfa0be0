"""Bits per dimension of simple codes for integer images: what a model must beat to have learned anything."""

import lzma

import numpy as np

__all__ = ["baseline_code_lengths"]


def _bits(counts, prior, which, x):
    """Mean code length of x under rows of counts, each with 100 pseudo-counts of a prior."""
    p = (counts + 100 * prior) / (counts.sum(-1, keepdims=True) + 100)
    return float(-np.log2(p[which, x]).mean())


def _contexts(x, levels):
    """Number of the context of each element: its neighbours left, above, above left and above right in seven bands."""
    band = np.where(x == 0, 0, 1 + (np.maximum(x, 1) - 1) * 6 // (levels - 1))
    band = np.pad(band, ((0, 0), (1, 0), (1, 1), (0, 0)))
    neighbours = (band[:, 1:, :-2], band[:, :-1, 1:-1], band[:, :-1, :-2], band[:, :-1, 2:])
    return np.ravel_multi_index(neighbours, (7,) * 4)


def baseline_code_lengths(train: np.ndarray, test: np.ndarray, levels: int) -> dict[str, float]:
    """Bits per dimension of test images, integers [N, h, w, c] below `levels`, by simple codes fitted on training images.

    One histogram; one for each place; one for each context of four neighbours that come first in a raster scan, in seven bands
    (zero, and six of equal width); and the xz compressor, which sees the test images alone.  The histograms are smoothed by 100
    pseudo-counts: of the uniform distribution, and of the whole histogram.
    """
    train, test = (np.asarray(x).astype(np.int64) for x in (train, test))
    whole = np.bincount(train.ravel(), minlength=levels)
    uniform = np.full(levels, 1 / levels)
    prior = (whole + 100 * uniform) / (whole.sum() + 100)

    def table(which_train, which_test, rows):
        counts = np.bincount((which_train * levels + train).ravel(), minlength=rows * levels)
        return _bits(counts.reshape(rows, levels), prior, which_test, test)

    place = np.arange(train[0].size).reshape(train[0].shape)
    packed = test.astype(np.uint8 if levels <= 256 else np.uint16).tobytes()
    return {
        "histogram": _bits(whole[None], uniform, 0, test),
        "histogram of each place": table(
            np.broadcast_to(place, train.shape), np.broadcast_to(place, test.shape), place.size
        ),
        "table of four neighbours": table(_contexts(train, levels), _contexts(test, levels), 7**4),
        "xz": 8 * len(lzma.compress(packed, preset=9)) / test.size,
    }
