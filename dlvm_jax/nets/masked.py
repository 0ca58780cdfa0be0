"""Masked networks: output i sees only the inputs before i."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

__all__ = ["MADE", "MaskedDense"]


class MaskedDense(nn.Module):
    """Dense layer whose kernel is multiplied by a mask [in, features] of zeros and ones.

    Shapes: [*batch, in] -> [*batch, features].
    """

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x.astype(self.dtype) @ (kernel * mask).astype(self.dtype) + bias.astype(self.dtype)


class MADE(nn.Module):
    """Masked autoencoder (Germain et al. 2015): `width` numbers for each element, from the elements before it and a context.

    Each unit has a degree, the number of leading inputs it may see; a connection never goes to a smaller degree.  The context
    reaches every layer unmasked, and units of degree 0 carry it to the first element.  Without hidden layers the outputs are
    linear.  The last layer starts small: a flow or density built on it starts near the identity, or the unit Gaussian.
    Shapes: z [*batch, dim], or the tuple of z and a context [*batch, features] (batches broadcast) -> [*batch, dim, width].
    """

    hidden: Sequence[int]
    dim: int
    width: int
    activation: Callable = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs):
        x, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"this MADE takes {self.dim} inputs, got shape {x.shape}; make it with dim={x.shape[-1]}"
            )

        def layer(x, mask, **options):
            out = MaskedDense(mask.shape[1], dtype=self.dtype, **options)(x, mask)
            if context is not None:
                out = out + nn.Dense(mask.shape[1], use_bias=False, dtype=self.dtype, **options)(context)
            return out

        lowest = (
            0 if context is not None else min(1, self.dim - 1)
        )  # units that see nothing would be constants
        degrees = np.arange(1, self.dim + 1)
        for width in self.hidden:
            above = lowest + np.arange(width) % (self.dim - lowest)
            x = self.activation(layer(x, degrees[:, None] <= above))
            degrees = above
        seen = np.repeat(np.arange(self.dim), self.width)
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        x = layer(x, degrees[:, None] <= seen, kernel_init=small)
        x = x.reshape(*x.shape[:-1], self.dim, self.width)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
