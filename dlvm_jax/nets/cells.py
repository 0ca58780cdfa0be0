"""Latent groups of hierarchical VAEs as Flax modules: dense ladders, bottleneck blocks (VDVAE), residual cells (NVAE).

Each module has the three methods of a group: `prior`, `posterior`, `merge` (see `models.top_down.Group`).
There is no batch normalisation: its running statistics are wrong for samples at another temperature, and an example's bound
would depend on the others of its batch.  Residual branches start small instead, the more so the deeper the model.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional.hierarchical import precision_weighted
from dlvm_jax.nets.conv import Conv
from dlvm_jax.nets.mlp import MLP, SMALL

__all__ = [
    "BottleneckBlock",
    "BottleneckGroup",
    "DenseBlock",
    "DenseGroup",
    "ResidualCell",
    "ResidualGroup",
    "law",
    "resize",
    "scaled",
]

Law = tuple[jax.Array, jax.Array]
# Of log-standard deviations and of relative shifts: the KL of a number to the law that it is relative to is below 12,000 nats.
BOUND = 5.0


def scaled(depth: int) -> Callable:
    """Initial weights whose output has a variance of 1 / depth."""
    return nn.initializers.variance_scaling(1 / depth, "fan_in", "truncated_normal")


def law(outputs: jax.Array, relative_to: Law | None = None) -> Law:
    """Mean and log-standard deviation from a network's last axis.

    Relative to another law, the first output is a shift of its mean in units of its standard deviation, and the second one of
    its log-standard deviation.  Both are bounded then: a state far from those of training must not cost more than it can.
    """
    mean, log_std = outputs[..., 0], _bounded(outputs[..., 1])
    if relative_to is None:
        return mean, log_std
    return relative_to[0] + jnp.exp(relative_to[1]) * _bounded(mean), relative_to[1] + log_std


def _bounded(x: jax.Array) -> jax.Array:
    return BOUND * jnp.tanh(x / BOUND)


def resize(x: jax.Array, height: int, width: int) -> jax.Array:
    """An image at another size: twice as large by repetition, half as large by means, with odd sizes rounded up.

    Shapes: [*batch, h, w, c] -> [*batch, height, width, c].  Raises ValueError for another ratio.
    """
    h, w = x.shape[-3:-1]
    if (height, width) == (h, w):
        return x
    if (h, w) == (-(-height // 2), -(-width // 2)):
        return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)[..., :height, :width, :]
    if (height, width) == (-(-h // 2), -(-w // 2)):
        return nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
    raise ValueError(f"an image is halved or doubled, got {h} x {w} to become {height} x {width}")


class DenseBlock(nn.Module):
    """A residual block of two dense layers, x + W swish(V swish(x)).  Shapes: [*batch, d] -> the same."""

    hidden: int
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.swish(nn.Dense(self.hidden, dtype=self.dtype)(nn.swish(x)))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=scaled(self.depth))(h)


class _Group(nn.Module):
    """What all groups share: a call runs the three methods, so that `init` makes all parameters."""

    def __call__(self, h: jax.Array, features: jax.Array) -> jax.Array:
        p, after = self.prior(h)
        return self.merge(after, self.posterior(h, features, p)[0])


class DenseGroup(_Group):
    """A group of vectors.

    latent: numbers in z_l;  width: of the state;  hidden: width of the networks;  depth: groups of the whole model
    precision: whether the posterior is the precision-weighted product of the prior and a Gaussian of the features alone
        (Sonderby et al. 2016, eq. 17 to 19), instead of the prior shifted by a network of state and features
    """

    latent: int
    width: int
    hidden: int
    depth: int
    precision: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        net = lambda: MLP((self.hidden,), (self.latent, 2), 1, nn.swish, dtype=self.dtype, head_init=SMALL)
        self.prior_net, self.posterior_net = net(), net()
        self.project = nn.Dense(self.width, dtype=self.dtype)
        self.block = DenseBlock(self.hidden, self.depth, self.dtype)

    def prior(self, h: jax.Array) -> tuple[Law, jax.Array]:
        return law(self.prior_net(h)), h

    def posterior(self, h: jax.Array, features: jax.Array, p: Law) -> Law:
        if self.precision:
            return precision_weighted(*law(self.posterior_net(features)), *p)
        return law(self.posterior_net((h, features)), p)

    def merge(self, h: jax.Array, z: jax.Array) -> jax.Array:
        return self.block(h + self.project(z))


class BottleneckBlock(nn.Module):
    """The block of VDVAE: convolutions 1x1, 3x3, 3x3, 1x1 with a GELU before each (Child 2021, figure 3).

    Of images of at most two pixels a side the 3x3 ones are 1x1.  A sum with the input where `residual`.
    Shapes: [*batch, h, w, c] -> [*batch, h, w, features].
    """

    features: int
    hidden: int
    last_init: Callable
    residual: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = 3 if min(x.shape[-3:-1]) > 2 else 1
        h = x
        for size in (1, side, side):
            h = Conv(self.hidden, (size, size), dtype=self.dtype)(nn.gelu(h))
        h = Conv(self.features, (1, 1), dtype=self.dtype, kernel_init=self.last_init)(nn.gelu(h))
        return x + h if self.residual else h


class BottleneckGroup(_Group):
    """A group of VDVAE (Child 2021, figure 3): the prior's network adds to the state; the posterior stands by itself.

    latent: channels of z_l;  width: of the state;  hidden: of the bottlenecks;  depth: groups of the whole model
    """

    latent: int
    width: int
    hidden: int
    depth: int
    dtype: Any = jnp.float32

    def setup(self):
        block = lambda features, init, **options: BottleneckBlock(
            features, self.hidden, init, dtype=self.dtype, **options
        )
        self.prior_net = block(2 * self.latent + self.width, SMALL)
        self.posterior_net = block(2 * self.latent, SMALL)
        self.project = Conv(self.width, (1, 1), dtype=self.dtype, kernel_init=scaled(self.depth))
        self.block = block(self.width, scaled(self.depth), residual=True)

    def prior(self, h: jax.Array) -> tuple[Law, jax.Array]:
        outputs = self.prior_net(h)
        return law(_pairs(outputs[..., : 2 * self.latent])), h + outputs[..., 2 * self.latent :]

    def posterior(self, h: jax.Array, features: jax.Array, p: Law) -> Law:
        return law(_pairs(self.posterior_net(jnp.concatenate([h, features], axis=-1))))

    def merge(self, h: jax.Array, z: jax.Array) -> jax.Array:
        return self.block(h + self.project(z))


class ResidualCell(nn.Module):
    """A residual cell of NVAE with squeeze and excitation, x + cell(x) / 10 (Vahdat & Kautz 2020, figure 3).

    An encoder's cell: swish and 3x3 convolutions, twice.  A decoder's, with `expand`: a 1x1 convolution to `expand` times the
    channels, a depthwise 5x5 one, and a 1x1 one back.  Shapes: [*batch, h, w, c] -> the same.
    """

    expand: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if self.expand:
            h = Conv(self.expand * channels, (1, 1), dtype=self.dtype)(x)
            h = Conv(self.expand * channels, (5, 5), dtype=self.dtype, depthwise=True)(nn.swish(h))
            h = Conv(channels, (1, 1), dtype=self.dtype)(nn.swish(h))
        else:
            h = Conv(channels, (3, 3), dtype=self.dtype)(nn.swish(x))
            h = Conv(channels, (3, 3), dtype=self.dtype)(nn.swish(h))
        squeezed = nn.relu(nn.Dense(max(channels // 16, 4), dtype=self.dtype)(h.mean((-3, -2))))
        gate = nn.sigmoid(nn.Dense(channels, dtype=self.dtype)(squeezed))
        return x + 0.1 * h * gate[..., None, None, :]


class ResidualGroup(_Group):
    """A group of NVAE: the posterior is the prior shifted by a network of state and features (Vahdat & Kautz 2020, figure 2).

    Here the shift is in units of the prior's standard deviation, and bounded (`law`).

    latent: channels of z_l;  width: of the state;  hidden: the factor by which a cell widens
    """

    latent: int
    width: int
    hidden: int
    depth: int
    dtype: Any = jnp.float32

    def setup(self):
        pairs = lambda side: Conv(2 * self.latent, (side, side), dtype=self.dtype, kernel_init=SMALL)
        combine = lambda: Conv(self.width, (1, 1), dtype=self.dtype)
        self.prior_net, self.posterior_net = pairs(1), pairs(3)
        self.combine_features, self.combine_latent = combine(), combine()
        self.cell = ResidualCell(self.hidden, self.dtype)

    def prior(self, h: jax.Array) -> tuple[Law, jax.Array]:
        return law(_pairs(self.prior_net(nn.elu(h)))), h

    def posterior(self, h: jax.Array, features: jax.Array, p: Law) -> Law:
        return law(_pairs(self.posterior_net(features + self.combine_features(h))), p)

    def merge(self, h: jax.Array, z: jax.Array) -> jax.Array:
        return self.cell(self.combine_latent(jnp.concatenate([h, z], axis=-1)))


def _pairs(outputs: jax.Array) -> jax.Array:
    """[..., 2 n] -> [..., n, 2] in float32: the means and then the log-standard deviations."""
    mean, log_std = jnp.split(outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)), 2, axis=-1)
    return jnp.stack([mean, log_std], axis=-1)
