"""Convolutional pairs whose code is a grid of vectors, not one vector: strided convolutions and residual blocks.

They are of images, or of sequences: a sequence is an image of one column, with kernels of one column.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows.image import depth_to_space
from dlvm_jax.nets.conv import Conv
from dlvm_jax.nets.mlp import Head

__all__ = ["GridDecoder", "GridEncoder"]


def _side(side, axes):
    """A kernel, or strides, of as many rows; of a sequence one column."""
    return side, side if axes == 2 else 1


def _doubled(x, axes):
    """Twice the sides, by rearranging channels."""
    if axes == 2:
        return depth_to_space(x, 2)
    *batch, length, _, channels = x.shape
    return x.reshape(*batch, 2 * length, 1, channels // 2)


class ResidualBlock(nn.Module):
    """x + a 1x1 convolution of a 3x3 convolution, a ReLU before each.  Shapes: [*batch, h, w, c] -> the same."""

    axes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Conv(x.shape[-1], _side(3, self.axes), dtype=self.dtype)(nn.relu(x))
        return x + Conv(x.shape[-1], (1, 1), dtype=self.dtype)(nn.relu(h))


class GridEncoder(nn.Module):
    """Strided 4x4 convolutions, one halving each, residual blocks, and a linear head of each place (van den Oord et al. 2017).

    maps, dim: vectors of a place, which stand beside each other, and their numbers
    axes: 2 of images, 1 of sequences
    Shapes: [*batch, h, w, c] -> [*batch, h / 2^halvings, maps w / 2^halvings, 1, dim], sides rounded up;
    of sequences [*batch, t, c] -> [*batch, maps t / 2^halvings, dim].
    """

    width: int
    halvings: int
    depth: int
    maps: int
    dim: int
    axes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x if self.axes == 2 else x[..., None, :]
        for _ in range(self.halvings):
            x = Conv(self.width, _side(4, self.axes), _side(2, self.axes), dtype=self.dtype)(x)
            x = nn.relu(x)
        x = Conv(self.width, _side(3, self.axes), dtype=self.dtype)(x)
        for _ in range(self.depth):
            x = ResidualBlock(self.axes, self.dtype)(x)
        z = Head((self.maps, self.dim), self.dtype)(nn.relu(x))
        if self.axes == 1:
            return z.reshape(*z.shape[:-4], -1, self.dim)
        return z.reshape(*z.shape[:-3], -1, 1, self.dim)


class GridDecoder(nn.Module):
    """Mirror of `GridEncoder`: residual blocks, then 3x3 convolutions, one doubling each by rearranging channels.

    A context is given to each place of the grid.
    axes: 2 of images, 1 of sequences
    Shapes: [*batch, h, maps w, 1, dim] -> [*batch, 2^halvings h, 2^halvings w, *out_shape];
    of sequences [*batch, maps t, dim] -> [*batch, 2^halvings t, *out_shape]; or a tuple of such a grid and a context [*batch, c].
    """

    width: int
    halvings: int
    depth: int
    maps: int
    out_shape: Sequence[int]
    axes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array | tuple[jax.Array, jax.Array]) -> jax.Array:
        z, *context = inputs if isinstance(inputs, tuple) else (inputs,)
        if self.axes == 2:
            z = z.reshape(*z.shape[:-3], -1, self.maps * z.shape[-1])
        else:
            z = z.reshape(*z.shape[:-2], -1, 1, self.maps * z.shape[-1])
        for given in context:
            given = jnp.broadcast_to(given[..., None, None, :], (*z.shape[:-1], given.shape[-1]))
            z = jnp.concatenate([z, given], axis=-1)
        x = Conv(self.width, _side(3, self.axes), dtype=self.dtype)(z)
        for _ in range(self.depth):
            x = ResidualBlock(self.axes, self.dtype)(x)
        for _ in range(self.halvings):
            x = Conv(2**self.axes * self.width, _side(3, self.axes), dtype=self.dtype)(nn.relu(x))
            x = _doubled(x, self.axes)
        x = Head(self.out_shape, self.dtype)(nn.relu(x))
        return x if self.axes == 2 else x.squeeze(-1 - len(self.out_shape))
