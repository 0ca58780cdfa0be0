"""Convolutional pairs whose code is a grid of vectors, not one vector: strided convolutions and residual blocks."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows.image import depth_to_space
from dlvm_jax.nets.conv import Conv
from dlvm_jax.nets.mlp import Head

__all__ = ["GridDecoder", "GridEncoder"]


class ResidualBlock(nn.Module):
    """x + a 1x1 convolution of a 3x3 convolution, a ReLU before each.  Shapes: [*batch, h, w, c] -> the same."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Conv(x.shape[-1], (3, 3), dtype=self.dtype)(nn.relu(x))
        return x + Conv(x.shape[-1], (1, 1), dtype=self.dtype)(nn.relu(h))


class GridEncoder(nn.Module):
    """Strided 4x4 convolutions, one halving each, residual blocks, and a linear head of each place (van den Oord et al. 2017).

    maps, dim: vectors of a place, which stand beside each other, and their numbers
    Shapes: [*batch, h, w, c] -> [*batch, h / 2^halvings, maps w / 2^halvings, 1, dim], sides rounded up.
    """

    width: int
    halvings: int
    depth: int
    maps: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.halvings):
            x = nn.relu(Conv(self.width, (4, 4), strides=2, dtype=self.dtype)(x))
        x = Conv(self.width, (3, 3), dtype=self.dtype)(x)
        for _ in range(self.depth):
            x = ResidualBlock(self.dtype)(x)
        z = Head((self.maps, self.dim), self.dtype)(nn.relu(x))
        return z.reshape(*z.shape[:-3], -1, 1, self.dim)


class GridDecoder(nn.Module):
    """Mirror of `GridEncoder`: residual blocks, then 3x3 convolutions, one doubling each by rearranging channels.

    Shapes: [*batch, h, maps w, 1, dim] -> [*batch, 2^halvings h, 2^halvings w, *out_shape].
    """

    width: int
    halvings: int
    depth: int
    maps: int
    out_shape: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        z = z.reshape(*z.shape[:-3], -1, self.maps * z.shape[-1])
        x = Conv(self.width, (3, 3), dtype=self.dtype)(z)
        for _ in range(self.depth):
            x = ResidualBlock(self.dtype)(x)
        for _ in range(self.halvings):
            x = depth_to_space(Conv(4 * self.width, (3, 3), dtype=self.dtype)(nn.relu(x)), 2)
        return Head(self.out_shape, self.dtype)(nn.relu(x))
