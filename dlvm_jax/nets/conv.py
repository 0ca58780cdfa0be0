"""A small convolutional encoder and decoder for images."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dlvm_jax.nets.mlp import Head

__all__ = ["ConvDecoder", "ConvEncoder"]


def pixel_shuffle(x, features):
    """Rearrange [*batch, h, w, 4 * features] to [*batch, 2h, 2w, features]: channel block (i, j) goes to row i, column j."""
    *batch, height, width, _ = x.shape
    x = jnp.moveaxis(x.reshape(*batch, height, width, 2, 2, features), -3, -4)
    return x.reshape(*batch, 2 * height, 2 * width, features)


class ConvEncoder(nn.Module):
    """Strided 3x3 convolutions, one halving of the image a layer, then a linear head.

    Shapes: [*batch, h, w, c] -> [*batch, *out_shape].
    """

    channels: Sequence[int]
    out_shape: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for width in self.channels:
            x = nn.gelu(nn.Conv(width, (3, 3), strides=2, dtype=self.dtype)(x))
        return Head(self.out_shape, self.dtype)(x.reshape(*x.shape[:-3], -1))


class ConvDecoder(nn.Module):
    """Mirror of `ConvEncoder`: a dense layer to the coarsest grid, then sub-pixel upsampling, one doubling a layer.

    Each doubling is a 3x3 convolution to four times the channels, rearranged to twice the resolution (Shi et al. 2016):
    no checkerboard, and the convolution runs on the small grid.  Shapes: [*batch, M] -> [*batch, h, w, c, p] for
    `out_shape` (h, w, c, p); a grid that overshoots h or w is cropped.
    """

    channels: Sequence[int]
    out_shape: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z):
        height, width, *rest = self.out_shape
        scale = 2 ** len(self.channels)
        rows, columns = -(-height // scale), -(-width // scale)
        x = nn.Dense(rows * columns * self.channels[0], dtype=self.dtype)(z)
        x = x.reshape(*x.shape[:-1], rows, columns, self.channels[0])
        for features in [*self.channels[1:], math.prod(rest)]:
            x = pixel_shuffle(nn.Conv(4 * features, (3, 3), dtype=self.dtype)(nn.gelu(x)), features)
        x = x[..., :height, :width, :]
        return x.reshape(*x.shape[:-1], *rest).astype(jnp.float32)
