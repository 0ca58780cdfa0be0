"""Fully connected networks."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["MLP", "SMALL", "GatedDense", "Head", "concatenate_events"]

Inputs = jax.Array | tuple[jax.Array, ...]
SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")  # of the last layer, for flows


def concatenate_events(inputs: Inputs, event_ndim: int | tuple[int, ...]) -> jax.Array:
    """Flatten the last `event_ndim` axes of an array, or of each array of a tuple, and join them on the last axis.

    Shapes: [*batch, *event] each (batches broadcast to that of one of them) -> [*batch, features].  Raises ValueError for others.
    """
    arrays = inputs if isinstance(inputs, tuple) else (inputs,)
    ndims = event_ndim if isinstance(event_ndim, tuple) else (event_ndim,) * len(arrays)
    flat = [x.reshape(*x.shape[: x.ndim - n], -1) for x, n in zip(arrays, ndims, strict=True)]
    if len(flat) == 1:
        return flat[0]
    batches = [x.shape[:-1] for x in flat]
    batch = jnp.broadcast_shapes(*batches)
    if batch not in batches:  # as of labels in a column
        raise ValueError(
            f"batches {', '.join(map(str, batches))} would give every pair of examples; give them one shape"
        )
    return jnp.concatenate([jnp.broadcast_to(x, batch + x.shape[-1:]) for x in flat], axis=-1)


class GatedDense(nn.Module):
    """Dense layer with a multiplicative gate, h * sigmoid(g) (Tomczak & Welling 2018, section 4.2).

    Shapes: [*batch, in] -> [*batch, features].
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h, gate = jnp.split(nn.Dense(2 * self.features, dtype=self.dtype)(x), 2, axis=-1)
        return h * jax.nn.sigmoid(gate)


class Head(nn.Module):
    """Linear output layer, reshaped to [*batch, *out_shape], in float32 at least whatever the compute type."""

    out_shape: Sequence[int]
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        flat = nn.Dense(math.prod(self.out_shape), dtype=self.dtype, kernel_init=self.kernel_init)(x)
        flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
        return flat.reshape(*flat.shape[:-1], *self.out_shape)


class MLP(nn.Module):
    """Multi-layer perceptron from flattened events to `out_shape`.

    event_ndim: number of event axes of the input, or of each array of a tuple, which are joined
    gated: each layer is a `GatedDense`;  activation, kernel_init: of layers that are not gated
    connect: what a layer h = f(x) passes on: h itself ("plain"), x + h ("residual", He et al. 2016; x is projected where the
        width changes), or both, concatenated ("dense", Huang et al. 2017)
    head_init: of the last layer; `SMALL` starts a flow near the identity

    Shapes: [*batch, *event] -> [*batch, *out_shape].
    `MLP((300,), (M, 2))` is the encoder of the lectures, `MLP((500,), (20, 2))` that of Kingma & Welling 2014.
    """

    hidden: Sequence[int]
    out_shape: Sequence[int]
    event_ndim: int | tuple[int, ...] = 1
    activation: Callable = nn.relu
    gated: bool = False
    connect: str = "plain"
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    head_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: Inputs) -> jax.Array:
        if self.connect not in ("plain", "residual", "dense"):
            raise ValueError(f"connect is 'plain', 'residual' or 'dense', got {self.connect!r}")
        x = concatenate_events(inputs, self.event_ndim)
        for width in self.hidden:
            if self.gated:
                h = GatedDense(width, self.dtype)(x)
            else:
                h = self.activation(nn.Dense(width, dtype=self.dtype, kernel_init=self.kernel_init)(x))
            if self.connect == "residual":
                h = h + (x if x.shape[-1] == width else nn.Dense(width, use_bias=False, dtype=self.dtype)(x))
            elif self.connect == "dense":
                h = jnp.concatenate([x.astype(h.dtype), h], axis=-1)
            x = h
        return Head(self.out_shape, self.dtype, self.head_init)(x)
