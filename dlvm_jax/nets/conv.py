"""Convolutions whose gradients are fast in a loop, and convolutional encoders and decoders for images: small, and gated."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows.image import depth_to_space
from dlvm_jax.nets.mlp import GatedDense, Head

__all__ = ["Conv", "ConvDecoder", "ConvEncoder", "ConvResidual", "GatedConvDecoder", "GatedConvEncoder"]

LECUN = nn.initializers.lecun_normal()
CACHED = 2**19  # numbers of the patches that are made at once, which a core's cache holds


def _convolve(x, kernel, strides, padding, depthwise):
    """A convolution of images [n, h, w, c]; on a CPU a product of the kernel with the patches of a few images at a time.

    In a loop such as the engine's, XLA's own gradient of the kernel takes some 15 times as long there.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1] if depthwise else 1,
        )
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = kernel.shape[:2]
    rows, columns = (
        (size - side) // stride + 1
        for size, side, stride in zip(x.shape[1:3], (height, width), strides, strict=True)
    )

    def shifted(x, i, j):
        """What the element (i, j) of the kernel meets."""
        return x[..., i : i + strides[0] * rows : strides[0], j : j + strides[1] * columns : strides[1], :]

    places = [(i, j) for i in range(height) for j in range(width)]
    if depthwise:
        return sum(shifted(x, i, j) * kernel[i, j, 0] for i, j in places)

    matrix = kernel.reshape(-1, kernel.shape[-1])

    @jax.checkpoint  # patches are made again in the backward pass
    def product(x):
        return jnp.concatenate([shifted(x, i, j) for i, j in places], -1) @ matrix

    at_once = CACHED // max(1, rows * columns * len(matrix))
    if at_once >= len(x):
        return product(x)
    return jax.lax.map(product, x, batch_size=max(1, at_once))


def Conv(
    features: int,
    kernel_size: tuple[int, int],
    strides: int | tuple[int, int] = 1,
    padding: Any = "SAME",
    dtype: Any = None,
    kernel_init: Callable = LECUN,
    depthwise: bool = False,
) -> nn.Conv:
    """`nn.Conv` of images with `_convolve` for its convolution: no dilation, no groups but single channels (`depthwise`)."""

    def convolve(x, kernel, strides, padding, **_):
        if isinstance(padding, str):
            padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        return _convolve(x, kernel, tuple(strides), tuple(padding), depthwise)

    return nn.Conv(
        features,
        kernel_size,
        strides,
        padding,
        dtype=dtype,
        kernel_init=kernel_init,
        feature_group_count=features if depthwise else 1,
        conv_general_dilated=convolve,
    )


class ConvResidual(nn.Module):
    """Residual blocks of a 3x3 and a 1x1 convolution at one resolution, for the couplings of flows on images.

    Shapes: [*batch, h, w, c] -> [*batch, h, w, features, width]; the last layer starts at zero.
    """

    channels: int
    blocks: int
    features: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Conv(self.channels, (3, 3), dtype=self.dtype)(x)
        for _ in range(self.blocks):
            inner = Conv(self.channels, (3, 3), dtype=self.dtype)(nn.gelu(h))
            h = h + Conv(self.channels, (1, 1), dtype=self.dtype)(nn.gelu(inner))
        out = nn.Dense(self.features * self.width, kernel_init=nn.initializers.zeros)(
            nn.gelu(h).astype(jnp.float32)
        )
        return out.reshape(*out.shape[:-1], self.features, self.width)


class ConvEncoder(nn.Module):
    """Strided 3x3 convolutions, one halving of the image a layer, then a linear head.

    pooled: the head sees the means of each layer over the image, and not where something is
    Shapes: [*batch, h, w, c] -> [*batch, *out_shape].
    """

    channels: Sequence[int]
    out_shape: Sequence[int]
    dtype: Any = jnp.float32
    pooled: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = []
        for width in self.channels:
            x = nn.gelu(Conv(width, (3, 3), strides=2, dtype=self.dtype)(x))
            layers.append(x)
        if self.pooled:
            x = jnp.concatenate([layer.mean((-3, -2)) for layer in layers], -1)
        else:
            x = x.reshape(*x.shape[:-3], -1)
        return Head(self.out_shape, self.dtype)(x)


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
    def __call__(self, z: jax.Array) -> jax.Array:
        height, width, *rest = self.out_shape
        scale = 2 ** len(self.channels)
        rows, columns = -(-height // scale), -(-width // scale)
        x = nn.Dense(rows * columns * self.channels[0], dtype=self.dtype)(z)
        x = x.reshape(*x.shape[:-1], rows, columns, self.channels[0])
        for features in [*self.channels[1:], math.prod(rest)]:
            x = depth_to_space(Conv(4 * features, (3, 3), dtype=self.dtype)(nn.gelu(x)), 2)
        x = x[..., :height, :width, :]
        return x.reshape(*x.shape[:-1], *rest).astype(jnp.float32)


class GatedConv(nn.Module):
    """A 5x5 convolution with a multiplicative gate, h * sigmoid(g), `up` with twice the resolution (a transposed one)."""

    features: int
    strides: int = 1
    up: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.up:  # zeros between the pixels, and then a convolution
            x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0)))
        return nn.glu(Conv(2 * self.features, (5, 5), self.strides, dtype=self.dtype)(x))


class GatedConvEncoder(nn.Module):
    """The encoder of van den Berg et al. 2018: gated 5x5 convolutions, a gated layer of 256 units, a linear head.

    At each resolution two convolutions, the second to half of it, and one more at the coarsest; channels (32, 64) are theirs.
    Shapes: [*batch, h, w, c] -> [*batch, *out_shape].
    """

    channels: Sequence[int]
    out_shape: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        for width in self.channels:
            x = GatedConv(width, dtype=self.dtype)(x)
            x = GatedConv(width, strides=2, dtype=self.dtype)(x)
        x = GatedConv(self.channels[-1], dtype=self.dtype)(x)
        x = GatedDense(256, self.dtype)(x.reshape(*batch, -1))
        return Head(self.out_shape, self.dtype)(x)


class GatedConvDecoder(nn.Module):
    """Mirror of `GatedConvEncoder`: a gated layer to the coarsest grid, gated 5x5 convolutions, a linear one of single pixels.

    Shapes: [*batch, M] -> [*batch, h, w, c, p] for `out_shape` (h, w, c, p); a grid that overshoots h or w is cropped.
    """

    channels: Sequence[int]
    out_shape: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        height, width, *rest = self.out_shape
        scale = 2 ** len(self.channels)
        rows, columns = -(-height // scale), -(-width // scale)
        x = GatedDense(rows * columns * self.channels[0], self.dtype)(z)
        x = x.reshape(-1, rows, columns, self.channels[0])
        for here, after in zip(self.channels, (*self.channels[1:], self.channels[-1]), strict=True):
            x = GatedConv(here, dtype=self.dtype)(x)
            x = GatedConv(after, up=True, dtype=self.dtype)(x)
        x = GatedConv(self.channels[-1], dtype=self.dtype)(x)
        out = Head(tuple(rest), self.dtype)(x[:, :height, :width])
        return out.reshape(*z.shape[:-1], height, width, *rest)
