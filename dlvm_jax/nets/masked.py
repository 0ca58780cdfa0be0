"""Masked networks: output i sees only the inputs before i."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dlvm_jax.nets.mlp import SMALL

__all__ = ["MADE", "MaskedDense"]


class MaskedDense(nn.Module):
    """Dense layer whose kernel is multiplied by a mask [in, features] of zeros and ones.

    Shapes: [*batch, in] -> [*batch, features], or `columns` (start, size) of them alone.
    """

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: ArrayLike, columns: tuple[ArrayLike, int] | None = None
    ) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features)) * mask
        bias = self.param("bias", self.bias_init, (self.features,))
        if columns is not None:
            kernel, bias = (jax.lax.dynamic_slice_in_dim(a, *columns, axis=-1) for a in (kernel, bias))
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class MADE(nn.Module):
    """Masked autoencoder (Germain et al. 2015): `width` outputs for each element, from the elements before it and a context.

    hidden: widths of the hidden layers; without any the outputs are linear
    dim: number of elements;  order: the elements from the first to the last, by default as they stand
    periodic: the inputs are angles, of which the network sees cosine and sine
    bias_init: of the last layer; the first element's outputs are these biases alone, so that with random ones the components
        of a mixture do not start alike

    Each unit has a degree, the number of leading inputs it may see; a connection never goes to a smaller degree.  The context
    reaches every layer unmasked, and units of degree 0 carry it to the first element.  The last layer starts small: a flow or
    density built on it starts near the identity, or the unit Gaussian.
    Shapes: z [*batch, dim], or the tuple of z and a context [*batch, features] (batches broadcast) -> [*batch, dim, width], or
    with a `row` (an integer, traced or not) -> [*batch, width], that row alone of the last layer.
    """

    hidden: Sequence[int]
    dim: int
    width: int
    periodic: bool = False
    bias_init: Callable = nn.initializers.zeros
    activation: Callable = nn.relu
    dtype: Any = jnp.float32
    order: Sequence[int] | None = None

    @nn.compact
    def __call__(
        self, inputs: jax.Array | tuple[jax.Array, jax.Array], row: ArrayLike | None = None
    ) -> jax.Array:
        x, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"this MADE takes {self.dim} inputs, got shape {x.shape}; make it with dim={x.shape[-1]}"
            )

        def layer(x, mask, columns=None, bias_init=nn.initializers.zeros, **options):
            out = MaskedDense(mask.shape[1], bias_init=bias_init, dtype=self.dtype, **options)(
                x, mask, columns
            )
            if context is not None:
                shift = nn.Dense(mask.shape[1], use_bias=False, dtype=self.dtype, **options)(context)
                out = out + (
                    shift if columns is None else jax.lax.dynamic_slice_in_dim(shift, *columns, axis=-1)
                )
            return out

        # units that see nothing would be constants
        lowest = 0 if context is not None else min(1, self.dim - 1)
        rank = np.arange(self.dim) if self.order is None else np.argsort(self.order)
        degrees = rank + 1
        if self.periodic:
            x, degrees = jnp.concatenate([jnp.cos(x), jnp.sin(x)], axis=-1), np.tile(degrees, 2)
        for width in self.hidden:
            above = lowest + np.arange(width) % (self.dim - lowest)
            if width < self.dim - lowest:
                # of all sizes, so that the last output sees all coordinates before it
                above = np.linspace(lowest, self.dim - 1, width).round().astype(int)
            x = self.activation(layer(x, degrees[:, None] <= above))
            degrees = above
        seen = np.repeat(rank, self.width)
        columns = None if row is None else (row * self.width, self.width)
        x = layer(x, degrees[:, None] <= seen, columns, kernel_init=SMALL, bias_init=self.bias_init)
        if row is None:
            x = x.reshape(*x.shape[:-1], self.dim, self.width)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
