"""A causal transformer: the outputs of an element see those before it, and what was computed of them is kept."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dlvm_jax.nets.mlp import SMALL, Head

__all__ = ["CausalTransformer", "attention", "causal_attention"]

Past = tuple[jax.Array, jax.Array, ArrayLike]

BLOCKS = 8  # of queries: each takes products with the keys up to its own last place alone


class Memory(NamedTuple):
    """What the transformer keeps of the elements so far.

    keys, values: of each layer, [depth, n, heads, T, width / heads];  shift: of the context, [n, 1, width], or 0 without one
    """

    keys: jax.Array
    values: jax.Array
    shift: ArrayLike


def attention(query: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v over the places that are seen, boolean [t, T] (Vaswani et al. 2017, eq. 1).

    Shapes: [n, heads, t, d], [n, heads, T, d] twice -> [n, heads, t, d].
    """
    scale = 1 / math.sqrt(query.shape[-1])
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("nhtd,nhsd->nhts", query * scale, keys, preferred_element_type=wide)
    logits = jnp.where(seen, logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    mixed = jnp.einsum("nhts,nhsd->nhtd", weights.astype(values.dtype), values)
    return mixed / weights.sum(-1, keepdims=True).astype(values.dtype)


def causal_attention(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """`attention` of each place to itself and those before it, [n, heads, T, d] of all.

    It goes block by block, and its gradient computes the weights again rather than keeping [T, T] of them.
    """
    places = jnp.arange(query.shape[-2])
    size = -(-len(places) // BLOCKS)

    def block(first):
        here, known = slice(first, first + size), slice(first + size)
        seen = places[known] <= places[here, None]
        return jax.checkpoint(attention)(query[:, :, here], keys[:, :, known], values[:, :, known], seen)

    return jnp.concatenate([block(first) for first in range(0, len(places), size)], axis=-2)


class CausalBlock(nn.Module):
    """Attention to the places so far and a perceptron, each added to its normalised input (Vaswani et al. 2017; pre-norm).

    past: without it x has all places, [n, T, width].  (keys, values, place): x is of one place, [n, 1, width], and keys and
        values [depth, n, heads, T, width / heads] of all layers are known of those before it
    layer: which of the layers this is
    Shapes: x -> the same, and `past` with the keys and values of x among them.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, past: Past | None, layer: ArrayLike) -> tuple[jax.Array, Past | None]:
        width = x.shape[-1]
        dense = lambda features, **options: nn.DenseGeneral(features, dtype=self.dtype, **options)
        found = dense((3, self.heads, width // self.heads))(nn.LayerNorm()(x))  # [n, t, 3, heads, d]
        query, *own = jnp.moveaxis(found, (2, 3), (0, 2))
        if past is None:
            mixed = causal_attention(query, *own)
        else:
            *old, place = past
            keys, values = (
                jax.lax.dynamic_update_slice(each, new[None], (layer, 0, 0, place, 0))
                for each, new in zip(old, own, strict=True)
            )
            seen = jnp.arange(keys.shape[-2]) <= place
            mixed = attention(query, keys[layer], values[layer], seen)
            past = keys, values, place
        x = x + dense(width, axis=(-2, -1))(jnp.moveaxis(mixed, 1, 2))
        return x + dense(width)(nn.gelu(dense(4 * width)(nn.LayerNorm()(x)))), past


class CausalTransformer(nn.Module):
    """A transformer over the flattened elements of an event: raw parameters of each from those before it, as they stand.

    width, depth, heads: of the blocks, which are scanned: compile time does not grow with the depth
    outputs: parameters of an element
    levels: the elements are integers 0..levels-1, each with a vector of its own; None for real numbers

    Its last layer starts small.
    Shapes: x [*batch, *event_shape], or the tuple of x and a context [*batch, d] -> [*batch, *event_shape, outputs].
    Raises ValueError unless the heads share the width evenly.
    """

    event_shape: Sequence[int]
    width: int
    depth: int
    heads: int
    outputs: int
    levels: int | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Its layers."""
        if self.width % self.heads:
            raise ValueError(f"heads share the width evenly, got width {self.width} and {self.heads} heads")
        self.size = math.prod(self.event_shape)
        vector = nn.initializers.normal(0.02)
        self.element = nn.Embed(self.levels, self.width) if self.levels else nn.Dense(self.width)
        self.beginning = self.param("beginning", vector, (self.width,))
        self.places = self.param("places", vector, (self.size, self.width))
        self.condition = nn.Dense(self.width)
        self.block = CausalBlock(self.heads, self.dtype)
        self.norm = nn.LayerNorm()
        self.head = Head((self.outputs,), self.dtype, SMALL)

    def __call__(self, inputs: jax.Array | tuple[jax.Array, jax.Array]) -> jax.Array:
        """All places at once."""
        x, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        batch = x.shape[: x.ndim - len(self.event_shape)]
        x = x.reshape(-1, self.size)
        if context is not None:
            context = jnp.broadcast_to(context, (*batch, context.shape[-1])).reshape(len(x), -1)
        before = self._embed(x[:, :-1])
        beginning = jnp.broadcast_to(self.beginning, (len(x), 1, self.width))
        h = jnp.concatenate([beginning, before], axis=1) + self.places + self._shift(context)
        out, _ = self._through(h, None)
        return out.reshape(*batch, *self.event_shape, self.outputs)

    def start(self, x: jax.Array, context: jax.Array | None = None) -> Memory:
        """The memory of events like x [n, *event_shape] at their beginning, with a context [n, d] or none."""
        past = jnp.zeros((self.depth, len(x), self.heads, self.size, self.width // self.heads), self.dtype)
        return Memory(past, past, self._shift(context))

    def step(self, memory: Memory, x: jax.Array, place: ArrayLike) -> tuple[jax.Array, Memory]:
        """Raw parameters [n, 1, outputs] of a place of x [n, *event_shape] from the memory before it, and the memory after it.

        The memory is of all places but the last one before `place`, which is read off x: places follow each other from 0.
        """
        x = x.reshape(-1, self.size)
        before = self._embed(jax.lax.dynamic_slice_in_dim(x, jnp.maximum(place - 1, 0), 1, axis=1))
        h = jnp.where(place == 0, self.beginning, before) + self.places[place] + memory.shift
        out, (keys, values, _) = self._through(h, (memory.keys, memory.values, place))
        return out, Memory(keys, values, memory.shift)

    def _through(self, h, past):
        """Raw parameters of the places of h, and `past` after them."""
        blocks = nn.scan(
            lambda block, carry, layer: (block(*carry, layer), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        (h, past), _ = blocks(self.block, (h.astype(self.dtype), past), jnp.arange(self.depth))
        return self.head(self.norm(h)), past

    def _embed(self, elements):
        return self.element(elements.astype(jnp.int32) if self.levels else elements[..., None])

    def _shift(self, context):
        """What a context adds to each place."""
        return jnp.zeros(()) if context is None else self.condition(context)[:, None]
