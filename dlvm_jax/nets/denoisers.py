"""Networks for diffusion models: a function of a noisy point, its log signal-to-noise ratio and a context.

All take x [*batch, *event], log_snr [*batch] and a context: class integers [*batch], vectors [*batch, F], or None.
They give one number for each element, [*batch, *event], or with `outputs` so many, [*batch, *event, outputs]; the last layer
starts at zero.  Embeddings, norms and softmax are in float32 whatever the compute type.
`deterministic=False` needs a "dropout" key.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from dlvm_jax.functional.flows.image import check_tiles, depth_to_space, space_to_depth
from dlvm_jax.nets.conv import Conv

__all__ = ["Conditioning", "DenoisingMLP", "Transformer", "UNet", "VDMResNet", "fourier_features"]

ZERO = nn.initializers.zeros


def sinusoids(value: ArrayLike, features: int) -> jax.Array:
    """Sines and cosines of a number at geometric frequencies from 1/16 to 4: [*batch] -> [*batch, features], float32."""
    frequencies = jnp.geomspace(1 / 16, 4.0, features // 2)
    angles = jnp.asarray(value, jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def fourier_features(x: jax.Array, exponents: Sequence[int]) -> jax.Array:
    """x, and sin and cos of 2^n pi x for each exponent n: its fine digits for a network to see (Kingma et al. 2021, appendix C).

    Shapes: [*batch, c] -> [*batch, c (1 + 2 len(exponents))], images too.
    """
    waves = [f(2.0**n * jnp.pi * x) for n in exponents for f in (jnp.sin, jnp.cos)]
    return jnp.concatenate([x, *waves], axis=-1)


def _trailing(shape, batch):
    """Whether a shape is that of the batch, or of its last axes, which all draws share."""
    return shape == batch[len(batch) - len(shape) :]


def _label_indices(labels, classes, batch):
    """Labels 0..classes as rows of an embedding, and past its end what is none, which gives NaN."""
    labels = jnp.asarray(labels)
    if not _trailing(labels.shape, batch):
        raise ValueError(
            f"labels are one integer for each example {batch}, got shape {labels.shape}: take labels[..., 0] of a column, "
            "argmax of one-hot vectors"
        )
    known = (labels >= 0) & (labels <= classes) & (labels == jnp.floor(labels))
    if not isinstance(known, Tracer) and not known.all():
        raise ValueError(
            f"labels are integers 0..{classes - 1}, or {classes} for none, got {labels[~known].ravel()[0]}"
        )
    return jnp.where(known, labels, classes + 1).astype(jnp.int32)


class Conditioning(nn.Module):
    """Embedding of log-SNR, and of a context added to it: [*batch] -> [*batch, features], float32.

    `classes`: the context is one of so many integers, and the integer `classes` itself stands for none (classifier-free
    guidance); without it the context is a vector.  Raises ValueError for a context of another shape, for a label that is
    missing and, where it is concrete, for an unknown one; elsewhere it gives NaN.
    """

    features: int
    classes: int | None = None

    @nn.compact
    def __call__(self, log_snr: jax.Array, context: jax.Array | None = None) -> jax.Array:
        h, batch = nn.Dense(self.features)(sinusoids(log_snr, self.features)), jnp.shape(log_snr)
        if self.classes:
            if context is None:
                raise ValueError(
                    f"this network is conditioned on labels, and none was given: give integers 0..{self.classes - 1}, or "
                    f"{self.classes} for none if training dropped labels"
                )
            h = h + nn.Embed(self.classes + 1, self.features)(_label_indices(context, self.classes, batch))
        elif context is not None:
            shape = jnp.shape(context)
            if len(shape) < min(2, len(batch) + 1) or not _trailing(shape[:-1], batch):
                raise ValueError(f"a context is one vector for each example {batch}, got shape {shape}")
            h = h + nn.Dense(self.features)(jnp.asarray(context, jnp.float32))
        return nn.Dense(self.features)(nn.silu(h))


class DenoisingMLP(nn.Module):
    """Residual multi-layer perceptron for vectors, the embedding added in every layer.

    Shapes: [*batch, D] -> [*batch, D].
    """

    hidden: Sequence[int]
    exponents: Sequence[int] = ()
    classes: int | None = None
    outputs: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        log_snr: jax.Array,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        embedding = nn.silu(Conditioning(self.hidden[0], self.classes)(log_snr, context))
        h = nn.Dense(self.hidden[0], dtype=self.dtype)(fourier_features(x, self.exponents))
        for width in self.hidden:
            inner = nn.silu(
                nn.Dense(width, dtype=self.dtype)(h) + nn.Dense(width, dtype=self.dtype)(embedding)
            )
            h = h if h.shape[-1] == width else nn.Dense(width, use_bias=False, dtype=self.dtype)(h)
            h = h + nn.Dense(width, dtype=self.dtype)(inner)
        out = nn.Dense(x.shape[-1] * (self.outputs or 1), kernel_init=ZERO)(nn.silu(h)).astype(jnp.float32)
        return out if self.outputs is None else out.reshape(*x.shape, self.outputs)


def _norm(channels):
    """Group norm of at most 32 groups, of four channels or more where they allow it."""
    groups = math.gcd(32, channels // 4) if channels % 4 == 0 else 1
    # by default it reduces all axes but the first, leading ones too
    return nn.GroupNorm(groups, reduction_axes=(-3, -2, -1))


class ResBlock(nn.Module):
    """Group norm, swish, 3x3 convolution, embedding, again, added to the input (Ho et al. 2020, appendix B).

    Shapes: [*batch, h, w, c], [*batch, features] -> [*batch, h, w, channels].
    """

    channels: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, deterministic: bool = True) -> jax.Array:
        conv = lambda init: Conv(self.channels, (3, 3), kernel_init=init, dtype=self.dtype)
        h = conv(nn.initializers.lecun_normal())(nn.silu(_norm(x.shape[-1])(x)))
        h = h + nn.Dense(self.channels, dtype=self.dtype)(nn.silu(embedding))[..., None, None, :]
        h = nn.Dropout(self.dropout)(nn.silu(_norm(self.channels)(h)), deterministic=deterministic)
        h = conv(ZERO)(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype)(x)
        return x + h


class SpatialAttention(nn.Module):
    """Self-attention between the places of an image, added to it.  Shapes: [*batch, h, w, c] -> same."""

    heads: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tokens = _norm(x.shape[-1])(x).reshape(*x.shape[:-3], -1, x.shape[-1])
        mixed = nn.MultiHeadAttention(
            self.heads, dtype=self.dtype, out_kernel_init=ZERO, force_fp32_for_softmax=True
        )(tokens)
        return x + mixed.reshape(x.shape)


def _last(h, size, channels, outputs, side):
    """The last layer, from zero: features of patches [*batch, h, w, c] to one or `outputs` numbers for each element."""
    features = size**2 * (outputs or 1) * channels
    if outputs is not None:
        side = 1  # many outputs: a matrix for each patch alone
    out = depth_to_space(Conv(features, (side, side), kernel_init=ZERO)(h.astype(jnp.float32)), size)
    return out if outputs is None else out.reshape(*out.shape[:-1], channels, outputs)


def _repeated(block, depth, h, embedding, deterministic):
    """h through `depth` copies of a block, scanned: compile time does not grow with the depth."""
    stack = nn.scan(
        lambda block, h, _: (block(h, embedding, deterministic), None),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
    )
    return stack(block, h, None)[0]


class VDMResNet(nn.Module):
    """Residual blocks at one resolution, on patches of the image, with Fourier features (Kingma et al. 2021, appendix B).

    The blocks are scanned, so compile time does not grow with the depth.  Shapes: [*batch, h, w, c] -> same.
    """

    channels: int
    depth: int
    patch: int = 1
    exponents: Sequence[int] = ()
    classes: int | None = None
    attention: bool = False
    dropout: float = 0.0
    outputs: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        log_snr: jax.Array,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        embedding = Conditioning(4 * self.channels, self.classes)(log_snr, context)
        h = space_to_depth(fourier_features(x, self.exponents), self.patch)
        h = Conv(self.channels, (3, 3), dtype=self.dtype)(h)

        h = _repeated(
            ResBlock(self.channels, self.dropout, self.dtype, name="blocks"),
            self.depth,
            h,
            embedding,
            deterministic,
        )
        if self.attention:
            h = SpatialAttention(dtype=self.dtype)(h)
            h = ResBlock(self.channels, self.dropout, self.dtype)(h, embedding, deterministic)
        h = nn.silu(_norm(self.channels)(h))
        return _last(h, self.patch, x.shape[-1], self.outputs, 3)


class UNet(nn.Module):
    """Encoder and decoder of residual blocks with skip connections, attention at the coarsest resolution (Ho et al. 2020).

    multipliers: channels of each resolution, in units of `channels`; each further one halves the image, whose sides must allow
        that

    Shapes: [*batch, h, w, c] -> same.
    """

    channels: int
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 2
    classes: int | None = None
    dropout: float = 0.0
    outputs: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        log_snr: jax.Array,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        check_tiles(x.shape, 2 ** (len(self.multipliers) - 1))
        embedding = Conditioning(4 * self.channels, self.classes)(log_snr, context)
        res = lambda m, h: ResBlock(m * self.channels, self.dropout, self.dtype)(h, embedding, deterministic)
        h = Conv(self.channels, (3, 3), dtype=self.dtype)(x)
        skips = [h]
        for halvings, multiplier in enumerate(self.multipliers):
            if halvings:
                h = Conv(multiplier * self.channels, (3, 3), strides=2, dtype=self.dtype)(h)
                skips.append(h)
            for _ in range(self.blocks):
                h = res(multiplier, h)
                skips.append(h)
        h = res(self.multipliers[-1], h)
        h = SpatialAttention(dtype=self.dtype)(h)
        h = res(self.multipliers[-1], h)
        for halvings, multiplier in reversed(list(enumerate(self.multipliers))):
            for _ in range(self.blocks + 1):
                h = res(multiplier, jnp.concatenate([h, skips.pop()], axis=-1))
            if halvings:
                *batch, height, width, features = h.shape
                h = jax.image.resize(h, (*batch, 2 * height, 2 * width, features), "nearest")
                h = Conv(features, (3, 3), dtype=self.dtype)(h)
        return _last(nn.silu(_norm(h.shape[-1])(h)), 1, x.shape[-1], self.outputs, 3)


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by the embedding, gates zero at first (Peebles & Xie 2023).

    Shapes: [*batch, T, c], [*batch, features] -> [*batch, T, c].
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, deterministic: bool = True) -> jax.Array:
        width = x.shape[-1]
        modulation = nn.Dense(6 * width, kernel_init=ZERO)(nn.silu(embedding))[..., None, :]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(modulation, 6, axis=-1)
        norm = nn.LayerNorm(use_bias=False, use_scale=False)
        h = norm(x) * (1 + scale_a) + shift_a
        h = nn.MultiHeadAttention(self.heads, dtype=self.dtype, force_fp32_for_softmax=True)(h)
        x = x + gate_a * nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = norm(x) * (1 + scale_m) + shift_m
        h = nn.Dense(width, dtype=self.dtype)(nn.gelu(nn.Dense(4 * width, dtype=self.dtype)(h)))
        return x + gate_m * nn.Dropout(self.dropout)(h, deterministic=deterministic)


class Transformer(nn.Module):
    """Diffusion transformer on patches (DiT, Peebles & Xie 2023), its blocks scanned.

    Shapes: [*batch, h, w, c] -> same.
    """

    width: int
    depth: int
    patch: int
    heads: int = 4
    exponents: Sequence[int] = ()
    classes: int | None = None
    dropout: float = 0.0
    outputs: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        log_snr: jax.Array,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        embedding = Conditioning(self.width, self.classes)(log_snr, context)
        patches = space_to_depth(fourier_features(x, self.exponents), self.patch)
        *batch, rows, columns, features = patches.shape
        h = nn.Dense(self.width, dtype=self.dtype)(patches.reshape(*batch, rows * columns, features))
        h = h + self.param("place", nn.initializers.normal(0.02), (rows * columns, self.width))

        blocks = TransformerBlock(self.heads, self.dropout, self.dtype, name="blocks")
        h = _repeated(blocks, self.depth, h, embedding, deterministic)
        modulation = nn.Dense(2 * self.width, kernel_init=ZERO)(nn.silu(embedding))[..., None, :]
        shift, scale = jnp.split(modulation, 2, axis=-1)
        h = nn.LayerNorm(use_bias=False, use_scale=False)(h) * (1 + scale) + shift
        return _last(h.reshape(*batch, rows, columns, -1), self.patch, x.shape[-1], self.outputs, 1)
