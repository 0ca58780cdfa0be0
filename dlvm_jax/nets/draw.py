"""The two halves of a glimpse of DRAW: read the image and look closer, decode and write to the canvas."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional import attention
from dlvm_jax.nets.mlp import Head, concatenate_events

__all__ = ["DrawDecoder", "DrawEncoder"]

State = tuple[jax.Array, jax.Array]  # of an LSTM: its cell and its output, [*batch, hidden] each


def _window(state: jax.Array, size: Sequence[int], count: int) -> attention.Window:
    """Where to look, by a linear map of a state that starts with filters that together see the whole image."""
    stride = (max(size) - 1) / max(count - 1, 1)
    wide = jnp.array([0.0, 0.0, 2 * math.log(max(stride, 1.0) / 2), 0.0, 0.0])
    raw = nn.Dense(5, bias_init=lambda key, shape, dtype: wide.astype(dtype), name="window")(state)
    return attention.window(raw, (size[0], size[1]), count)


class DrawEncoder(nn.Module):
    """A glimpse at an image, and what it says of z_t (Gregor et al. 2015, eq. 1, 2, 4, 5 and 17 or 27).

    hidden: width of the LSTM
    out_shape: of the outputs, such as (M, 2) for a mean and a log-scale of each latent number
    read: side of the patch that attention sees; None: the whole image is seen

    Shapes: (state, the decoder's output [*batch, hidden], image and error image [*batch, h, w, c] each) -> (state,
    [*batch, *out_shape]).
    """

    hidden: int
    out_shape: Sequence[int]
    read: int | None = None

    @nn.compact
    def __call__(
        self, state: State, decoder: jax.Array, image: jax.Array, error: jax.Array
    ) -> tuple[State, jax.Array]:
        seen = jnp.concatenate([image, error], axis=-1)
        if self.read is not None:
            where = _window(decoder, image.shape[-3:-1], self.read)
            seen = attention.read_patch(seen, where.rows, where.columns)
            seen = jnp.exp(where.log_intensity)[..., None, None, None] * seen
        inputs = concatenate_events((seen, decoder), (3, 1))
        state, output = nn.OptimizedLSTMCell(self.hidden)(state, inputs)
        return state, Head(self.out_shape)(output)


class DrawDecoder(nn.Module):
    """What z_t adds to the canvas (Gregor et al. 2015, eq. 7, 8 and 18 or 29).

    hidden: width of the LSTM
    out_shape: (h, w, c, p) of the canvas, p raw parameters for each element of an image
    write: side of the patch that attention draws; None: the whole canvas is drawn

    Shapes: (state, z [*batch, M]) -> (state, [*batch, *out_shape]).
    """

    hidden: int
    out_shape: Sequence[int]
    write: int | None = None

    @nn.compact
    def __call__(self, state: State, z: jax.Array) -> tuple[State, jax.Array]:
        state, output = nn.OptimizedLSTMCell(self.hidden)(state, z)
        if self.write is None:
            return state, Head(self.out_shape)(output)
        height, width, *rest = self.out_shape
        where = _window(output, (height, width), self.write)
        patch = Head((self.write, self.write, math.prod(rest)))(output)
        drawn = attention.write_patch(patch, where.rows, where.columns)
        drawn = jnp.exp(-where.log_intensity)[..., None, None, None] * drawn
        return state, drawn.reshape(*drawn.shape[:-1], *rest)
