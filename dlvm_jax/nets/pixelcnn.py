"""Causal convolutions of images: the outputs of a pixel see the rows above it, and the pixels to its left."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dlvm_jax.nets.conv import Conv
from dlvm_jax.nets.mlp import Head

__all__ = ["GatedPixelCNN"]


def _gate(h: jax.Array) -> jax.Array:
    """tanh(a) sigmoid(b) of the two halves of the channels (van den Oord et al. 2016, eq. 2)."""
    a, b = jnp.split(h, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


class VerticalLayer(nn.Module):
    """A layer of the stack of the rows above (van den Oord et al. 2016, figure 2).

    Shapes: rows [n, r, w, features], bias [n, 1 or r, 1 or w, 4 features] or None, the rows before [n, kernel // 2, w, features]
    -> the next layer's rows, and what the other stack is told [n, r, w, 2 features], and the last kernel // 2 rows.
    """

    features: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, rows: jax.Array, bias: jax.Array | None, before: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        half = self.kernel // 2
        conv = lambda size, sides: Conv(
            2 * self.features, size, padding=((0, 0), (sides, sides)), dtype=self.dtype
        )
        seen = jnp.concatenate([before, rows], axis=1)
        above = conv((half + 1, self.kernel), half)(seen)
        told = conv((1, 1), 0)(above)
        if bias is not None:
            above, told = (h + b for h, b in zip((above, told), jnp.split(bias, 2, axis=-1), strict=True))
        return _gate(above), (told, seen[:, rows.shape[1] :])


class HorizontalLayer(nn.Module):
    """A layer of the stack of the row so far, which is told of the rows above.

    Shapes: pixels [n, r, w, features], told [n, r, w, 2 features], the pixels before [n, r, kernel // 2, features]
    -> the next layer's pixels, and the last kernel // 2 pixels.
    """

    features: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array, told: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = jnp.concatenate([before, pixels], axis=2)
        width = (1, self.kernel // 2 + 1)
        left = Conv(2 * self.features, width, padding="VALID", dtype=self.dtype)(seen) + told
        out = Conv(self.features, (1, 1), dtype=self.dtype)(_gate(left))
        return pixels + out, seen[:, :, pixels.shape[2] :]


class Memory(NamedTuple):
    """What is kept of the pixels so far, of each layer: the last rows, what they tell the row at hand, its last pixels.

    bias: of the context, or None
    """

    rows: jax.Array
    told: jax.Array
    pixels: jax.Array
    bias: jax.Array | None


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

    def setup(self) -> None:
        """Its layers."""
        if self.kernel % 2 == 0:
            raise ValueError(f"a kernel has a middle, so its side is odd, got {self.kernel}")
        half = self.kernel // 2
        conv = lambda size: Conv(self.features, size, padding="VALID", dtype=self.dtype)
        self.first_rows, self.first_pixels = conv((half + 1, self.kernel)), conv((1, half + 1))
        self.vertical, self.horizontal = (
            nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)(
                self.features, self.kernel, self.dtype
            )
            for layer in (VerticalLayer, HorizontalLayer)
        )
        self.condition = nn.Dense(4 * self.features * self.depth, dtype=self.dtype)
        self.last = conv((1, 1))
        self.head = Head(self.out_shape, self.dtype)

    def __call__(self, inputs: jax.Array | tuple[jax.Array, jax.Array]) -> jax.Array:
        """All pixels at once."""
        x, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        batch, event = x.shape[:-3], x.shape[-3:]
        if context is not None:
            image = context.ndim > 2 and context.shape[-3:-1] == event[:2]
            context = jnp.broadcast_to(context, (*batch, *context.shape[-3 if image else -1 :]))
            context = context.reshape(-1, *context.shape[len(batch) :])
        x = x.reshape(-1, *event)
        half, memory, padded = self.kernel // 2, self.start(x, context), self._padded(x)
        told, _ = self._rows(padded[:, :-1], memory.bias, memory.rows)
        before = jnp.zeros((self.depth, len(x), event[0], half, self.features), self.dtype)
        out, _ = self._pixels(padded[:, half + 1 :, : event[1] + half, :], told, before)
        return out.reshape(*batch, *event[:2], *self.out_shape)

    def start(self, x: jax.Array, context: jax.Array | None = None) -> Memory:
        """The memory of images like x [n, h, w, c] at their beginning, with a context [n, d] or [n, h, w, d] or none."""
        n, _, w, _ = x.shape
        half, zeros = self.kernel // 2, lambda *shape: jnp.zeros((self.depth, n, *shape), self.dtype)
        bias = None
        if context is not None:
            places = context.shape[1:-1] or (1, 1)
            bias = self.condition(context.reshape(n, *places, -1).astype(self.dtype))
            bias = jnp.moveaxis(bias.reshape(*bias.shape[:-1], self.depth, -1), -2, 0)
        return Memory(
            zeros(half, w, self.features),
            zeros(1, w, 2 * self.features),
            zeros(1, half, self.features),
            bias,
        )

    def step(self, memory: Memory, x: jax.Array, place: ArrayLike) -> tuple[jax.Array, Memory]:
        """Raw parameters [n, *out_shape] of a pixel of x [n, h, w, c] from the memory before it, and the memory after it.

        Pixels follow each other from 0.  What the rows above tell a row is computed at its first pixel.
        """
        half, padded = self.kernel // 2, self._padded(x)
        row, column = jnp.divmod(place, x.shape[2])
        cut = jax.lax.dynamic_slice_in_dim

        def next_row(self, memory):
            bias = memory.bias
            if bias is not None and bias.shape[2] > 1:
                bias = cut(bias, row, 1, axis=2)
            told, rows = self._rows(cut(padded, row, half + 1, axis=1), bias, memory.rows)
            return Memory(rows, told, jnp.zeros_like(memory.pixels), memory.bias)

        memory = nn.cond(column == 0, next_row, lambda self, memory: memory, self, memory)
        seen = cut(cut(padded, row + half + 1, 1, axis=1), column, half + 1, axis=2)
        out, pixels = self._pixels(seen, cut(memory.told, column, 1, axis=3), memory.pixels)
        return out.reshape(len(x), *self.out_shape), memory._replace(pixels=pixels)

    def _padded(self, x):
        """The image as the network sees it, with the zeros around it that its first layer needs."""
        half = self.kernel // 2
        x = jnp.concatenate([2 * x / self.scale - 1, jnp.ones_like(x[..., :1])], axis=-1)
        return jnp.pad(x, ((0, 0), (half + 1, 0), (half + 1, half), (0, 0))).astype(self.dtype)

    def _rows(self, x, bias, before):
        """What rows tell of those above them, with `kernel // 2 + 1` more of x above the first."""
        _, found = self.vertical(self.first_rows(x[:, :, 1:]), bias, before)
        return found

    def _pixels(self, x, told, before):
        """Raw parameters of pixels, with `kernel // 2 + 1` more of x to their left and none to their right."""
        left, after = self.horizontal(self.first_pixels(x), told, before)
        return self.head(nn.relu(self.last(nn.relu(left)))), after
