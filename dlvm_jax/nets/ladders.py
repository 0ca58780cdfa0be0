"""What surrounds the groups of a hierarchical VAE: bottom-up encoders, the ways into a stage, the way out to the data.

An input may be a tuple (input, context), the context a vector [*batch, C].
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows.image import depth_to_space
from dlvm_jax.nets.cells import BottleneckBlock, DenseBlock, ResidualCell, resize, scaled
from dlvm_jax.nets.conv import Conv
from dlvm_jax.nets.mlp import Head, Inputs, concatenate_events

__all__ = ["DenseEncoder", "DenseEntry", "ImageEncoder", "ImageEntry", "ImageOutput", "grids"]


def _split(inputs: Inputs) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The input, and what else there is."""
    first, *others = inputs if isinstance(inputs, tuple) else (inputs,)
    return first, tuple(others)


def _everywhere(h: jax.Array, context: tuple[jax.Array, ...], dtype: Any) -> jax.Array:
    """An image of features [*batch, h, w, c], plus the same linear function of the context at each place."""
    return h + nn.Dense(h.shape[-1], dtype=dtype)(*context)[..., None, None, :] if context else h


def grids(height: int, width: int, stride: int, stages: int) -> list[tuple[int, int]]:
    """The grids of the stages, the coarsest first: images by `stride`, then halved again and again, odd sizes rounded up."""
    found = [(-(-height // stride), -(-width // stride))]
    for _ in range(stages - 1):
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found[::-1]


class DenseEncoder(nn.Module):
    """Features of a vector, or flattened image, for each stage: residual blocks from the data inwards.

    widths: of the features, from the data inwards;  event_ndim: axes of an example
    Shapes: [*batch, *event] -> a tuple of [*batch, width], from the data inwards.
    """

    widths: Sequence[int]
    hidden: Sequence[int]
    event_ndim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Inputs) -> tuple[jax.Array, ...]:
        _, context = _split(inputs)
        h = concatenate_events(inputs, (self.event_ndim, *(1 for _ in context)))
        found = []
        for width, hidden in zip(self.widths, self.hidden, strict=True):
            h = nn.Dense(width, dtype=self.dtype)(h if not found else nn.swish(h))
            h = DenseBlock(hidden, len(self.widths), self.dtype)(h)
            found.append(h)
        return tuple(found)


class DenseEntry(nn.Module):
    """Into a stage of vectors: swish, a dense layer and a residual block.  Shapes: [*batch, d] -> [*batch, width]."""

    width: int
    hidden: int
    top: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        h, context = _split(inputs)
        seen = concatenate_events((h if self.top else nn.swish(h), *context), 1)
        h = nn.Dense(self.width, dtype=self.dtype)(seen)
        return DenseBlock(self.hidden, 1, self.dtype)(h)


class Blocks(nn.Module):
    """`count` blocks of one kind, one after the other, as a scan.  Gives the last output and those of all blocks [count, ...]."""

    block: nn.Module
    count: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(block, h, _):
            h = block(h)
            return h, h

        scan = nn.scan(step, {"params": 0}, split_rngs={"params": True}, length=self.count)
        return scan(self.block, x, None)


class ImageEncoder(nn.Module):
    """Features of an image for each stage: blocks at each resolution, from the finest to the coarsest.

    widths, hidden, counts: channels, inner channels, and number of blocks at each resolution, from the finest
    stride: of the first convolution
    residual_cells: the cells of NVAE, and the features of each of them; else the blocks of VDVAE, and those of the last alone
    Shapes: [*batch, h, w, c] -> for each resolution, from the finest, (features of the last, of all blocks [count, ...]).
    """

    widths: Sequence[int]
    hidden: Sequence[int]
    counts: Sequence[int]
    stride: int
    residual_cells: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Inputs) -> tuple[tuple[jax.Array, jax.Array], ...]:
        x, context = _split(inputs)
        height, width, _ = x.shape[-3:]
        grid = grids(height, width, self.stride, len(self.widths))[::-1]
        side = max(3, self.stride)
        h = Conv(self.widths[0], (side, side), strides=self.stride, dtype=self.dtype)(x)
        h = _everywhere(h, context, self.dtype)
        found = []
        for (rows, columns), channels, hidden, count in zip(
            grid, self.widths, self.hidden, self.counts, strict=True
        ):
            h = resize(h, rows, columns)
            if h.shape[-1] != channels:
                h = Conv(channels, (1, 1), dtype=self.dtype)(h)
            block = (
                ResidualCell(dtype=self.dtype)
                if self.residual_cells
                else BottleneckBlock(channels, hidden, scaled(sum(self.counts)), True, self.dtype)
            )
            h, every = Blocks(block, count)(h)
            found.append((h, every))
        return tuple(found)


class ImageEntry(nn.Module):
    """Into a stage of images: a top latent by a dense layer, else twice the size; then a learned bias of each place.

    Shapes: [*batch, M] or [*batch, h, w, c] -> [*batch, height, width, channels].
    """

    height: int
    width: int
    channels: int
    top: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        h, context = _split(inputs)
        shape = self.height, self.width, self.channels
        if self.top:
            h = nn.Dense(math.prod(shape), dtype=self.dtype)(h).reshape(*h.shape[:-1], *shape)
        else:
            if h.shape[-1] != self.channels:
                h = Conv(self.channels, (1, 1), dtype=self.dtype)(h)
            h = resize(h, self.height, self.width)
        h = h + self.param("bias", nn.initializers.zeros, shape).astype(h.dtype)
        return _everywhere(h, context, self.dtype)


class ImageOutput(nn.Module):
    """From the last state to raw parameters of pixels: a 3x3 convolution, and `stride` times the size by rearranging channels.

    Shapes: [*batch, h, w, c] -> [*batch, *out_shape], out_shape = (height, width, channels, parameters).
    """

    out_shape: tuple[int, ...]
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        h, _ = _split(inputs)  # the state knows the context
        height, width, *rest = self.out_shape
        if self.stride > 1:
            h = Conv(self.stride**2 * math.prod(rest) * 4, (3, 3), dtype=self.dtype)(nn.gelu(h))
            h = depth_to_space(h, self.stride)[..., :height, :width, :]
        return Head(tuple(rest), self.dtype)(nn.gelu(h))
