"""A grid of Gaussian filters that looks at a part of an image: the attention of DRAW (Gregor et al. 2015, section 3.2)."""

from typing import NamedTuple

import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_integer, as_wide, einsum
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["Window", "filterbank", "read_patch", "window", "write_patch"]

NARROWEST = -20.0  # log-scale of a filter in pixels: one pixel has all of its weight long before


class Window(NamedTuple):
    """Where attention looks: filters over the rows [*batch, N, H] and columns [*batch, N, W], log-intensity [*batch]."""

    rows: Array
    columns: Array
    log_intensity: Array


def filterbank(center: Numeric, stride: Numeric, log_std: Numeric, count: int, size: int) -> Array:
    r"""Gaussian filters at equal distances along one side of an image; each sums to one over the pixels.

    $F_{ia} = e^{-(a-\mu_i)^2/2\sigma^2}\big/\sum_{a'} e^{-(a'-\mu_i)^2/2\sigma^2},\quad
      \mu_i = g + (i - \tfrac N2 - \tfrac12)\,\delta,\quad i = 1..N,\ a = 1..A$

    The exponent is taken relative to the nearest pixel, so that the sum is not zero however far or narrow a filter is: far
    outside it is the pixel at the edge.  Below a scale of e^-20 pixels nothing changes any more.
    center, stride: g and delta, in pixels, the first of which is 1;  log_std: log sigma;  count: N;  size: A
    Shapes: `center`, `stride`, `log_std` broadcast to [*batch] -> [*batch, N, A].  Raises ValueError for a count or size below 1.
    Source: Gregor et al. 2015, eq. 19, 20, 25, 26.

    >>> filterbank(2.0, 1.0, -5.0, 1, 3).tolist()
    [[0.0, 1.0, 0.0]]
    """
    if as_integer(count, "the number of filters") < 1 or as_integer(size, "the number of pixels") < 1:
        raise ValueError(f"a filterbank has at least one filter and one pixel, got {count} and {size}")
    center, stride, log_std = (value[..., None] for value in as_wide(center, stride, log_std))
    place = center + (jnp.arange(1, count + 1) - count / 2 - 0.5).astype(center.dtype) * stride
    place, pixel = place[..., None], jnp.arange(1, size + 1).astype(center.dtype)
    nearest = jnp.clip(jnp.round(place), 1, size)
    # (a - mu)^2 - (a* - mu)^2, without the cancellation of large squares
    further = (pixel - nearest) * (pixel + nearest - 2 * place)
    narrowness = jnp.exp(-2 * jnp.maximum(log_std, NARROWEST))[..., None]
    weight = jnp.exp(-0.5 * further * narrowness)
    return weight / jnp.sum(weight, axis=-1, keepdims=True)


def window(raw: Array, size: tuple[int, int], count: int) -> Window:
    r"""The filters that five free numbers describe.

    $g_X = \tfrac{A+1}2(\tilde g_X+1),\quad g_Y = \tfrac{B+1}2(\tilde g_Y+1),\quad
      \delta = \tfrac{\max(A,B)-1}{N-1}\,\tilde\delta,\quad F_X, F_Y,\ \log\gamma$

    For zeros the grid spans the image's longer side around its middle, with filters as wide as one pixel.
    raw: $(\tilde g_X, \tilde g_Y, \log\sigma^2, \log\tilde\delta, \log\gamma)$
    size: (height B, width A) of the image;  count: N, of the filters along each side
    Shapes: `raw` [*batch, 5] -> `Window` of [*batch, N, B], [*batch, N, A], [*batch].  Raises ValueError for other shapes.
    Source: Gregor et al. 2015, eq. 21-24.

    >>> [part.shape for part in window(jnp.zeros(5), (28, 20), 3)]
    [(3, 28), (3, 20), ()]
    """
    raw = as_wide(raw)
    if raw.shape[-1:] != (5,):
        raise ValueError(f"a window is described by five numbers [*batch, 5], got shape {raw.shape}")
    height, width = size
    across, down, log_variance, log_stride, log_intensity = (raw[..., i] for i in range(5))
    stride = (max(size) - 1) / max(count - 1, 1) * jnp.exp(log_stride)
    rows = filterbank((height + 1) / 2 * (down + 1), stride, log_variance / 2, count, height)
    columns = filterbank((width + 1) / 2 * (across + 1), stride, log_variance / 2, count, width)
    return Window(rows, columns, log_intensity)


def read_patch(image: Array, rows: Array, columns: Array) -> Array:
    r"""The patch of an image that filters see.

    $F_Y\,x\,F_X^\top$, of each channel

    Shapes: `image` [*batch, H, W, C], `rows` [*batch, N, H], `columns` [*batch, N, W] -> [*batch, N, N, C].
    Source: Gregor et al. 2015, eq. 27, without the intensity.

    >>> float(read_patch(jnp.ones((4, 4, 1)), jnp.eye(4)[1:2], jnp.eye(4)[2:3])[0, 0, 0])
    1.0
    """
    image, rows, columns = as_wide(image, rows, columns)
    # one side after the other: three factors at once would be multiplied in an order of XLA's own
    down = einsum("...nh,...hwc->...nwc", rows, image)
    return einsum("...mw,...nwc->...nmc", columns, down)


def write_patch(patch: Array, rows: Array, columns: Array) -> Array:
    r"""A patch that filters draw into an image of zeros: the transpose of reading.

    $F_Y^\top\,w\,F_X$, of each channel

    Shapes: `patch` [*batch, N, N, C], `rows` [*batch, N, H], `columns` [*batch, N, W] -> [*batch, H, W, C].
    Source: Gregor et al. 2015, eq. 29, without the intensity.

    >>> write_patch(jnp.ones((1, 1, 1)), jnp.eye(3)[1:2], jnp.eye(2)[:1])[..., 0].tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    patch, rows, columns = as_wide(patch, rows, columns)
    down = einsum("...nh,...nmc->...hmc", rows, patch)
    return einsum("...mw,...hmc->...hwc", columns, down)
