"""Causal convolutions of images: the outputs of a pixel see the rows above it, and the pixels to its left."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.nets.conv import Conv
from dlvm_jax.nets.mlp import Head

__all__ = ["GatedPixelCNN"]


def _shift(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """An image moved down and to the right; zeros come in."""
    padded = jnp.pad(x, ((0, 0), (rows, 0), (columns, 0), (0, 0)))
    return padded[:, : x.shape[1], : x.shape[2]]


def _gate(h: jax.Array) -> jax.Array:
    """tanh(a) sigmoid(b) of the two halves of the channels (van den Oord et al. 2016, eq. 2)."""
    a, b = jnp.split(h, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


class GatedLayer(nn.Module):
    """A layer of two stacks: one of the rows above, one of the row so far, which is also told of the first (figure 2).

    Both are given images that are shifted already, so that their own place is one they may see.
    Shapes: (vertical, horizontal) [n, h, w, features], bias [n, 1 or h, 1 or w, 4 features] or None -> the same pair.
    """

    features: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stacks: tuple[jax.Array, jax.Array], bias: Any) -> tuple[jax.Array, jax.Array]:
        vertical, horizontal = stacks
        half = self.kernel // 2
        conv = lambda size, padding: Conv(2 * self.features, size, padding=padding, dtype=self.dtype)
        above = conv((half + 1, self.kernel), ((half, 0), (half, half)))(vertical)
        left = conv((1, half + 1), ((0, 0), (half, 0)))(horizontal)
        left = left + Conv(2 * self.features, (1, 1), dtype=self.dtype)(above)
        if bias is not None:
            above, left = (h + b for h, b in zip((above, left), jnp.split(bias, 2, axis=-1), strict=True))
        out = Conv(self.features, (1, 1), dtype=self.dtype)(_gate(left))
        return _gate(above), horizontal + out


class GatedPixelCNN(nn.Module):
    """The gated PixelCNN (van den Oord et al. 2016b): raw parameters of each pixel from those before it, row by row.

    features: channels of both stacks;  depth: layers, run as a scan;  kernel: side of their convolutions, odd
    out_shape: (channels, parameters of each)
    scale: the largest value of a pixel; the network sees numbers on [-1, 1], and another channel of ones inside of the image

    Shapes: x [*batch, h, w, c], or (x, context), a context of vectors [*batch, d] or of images of x's size
    -> [*batch, h, w, *out_shape].  Raises ValueError for an even kernel.
    """

    features: int
    depth: int
    kernel: int
    out_shape: Sequence[int]
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array | tuple[jax.Array, jax.Array]) -> jax.Array:
        if self.kernel % 2 == 0:
            raise ValueError(f"a kernel has a middle, so its side is odd, got {self.kernel}")
        x, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        batch, event = x.shape[:-3], x.shape[-3:]
        x = (2 * x / self.scale - 1).reshape(-1, *event)
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(self.dtype)
        bias = None
        if context is not None:
            image = context.ndim > 2 and context.shape[-3:-1] == event[:2]
            places = event[:2] if image else (1, 1)
            context = jnp.broadcast_to(context, (*batch, *context.shape[-3 if image else -1 :]))
            context = context.reshape(-1, *places, context.shape[-1]).astype(self.dtype)
            bias = nn.Dense(4 * self.features * self.depth, dtype=self.dtype)(context)
            bias = jnp.moveaxis(bias.reshape(*bias.shape[:-1], self.depth, -1), -2, 0)

        half = self.kernel // 2
        conv = lambda size, padding: Conv(self.features, size, padding=padding, dtype=self.dtype)
        above = conv((half + 1, self.kernel), ((half, 0), (half, half)))(_shift(x, 1, 0))
        left = conv((1, half + 1), ((0, 0), (half, 0)))(_shift(x, 0, 1))

        layers = nn.scan(
            lambda layer, stacks, bias: (layer(stacks, bias), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=0,
            length=self.depth,
        )
        (_, left), _ = layers(GatedLayer(self.features, self.kernel, self.dtype), (above, left), bias)
        h = Conv(self.features, (1, 1), dtype=self.dtype)(nn.relu(left))
        return Head(self.out_shape, self.dtype)(nn.relu(h)).reshape(*batch, *event[:2], *self.out_shape)
