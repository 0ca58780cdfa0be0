"""Flows on images: RealNVP's checkerboard, Glow's steps, and several scales.  The latent point is a flat vector."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows import image
from dlvm_jax.models.bijections import Bijection, chain, repeated
from dlvm_jax.models.density import from_linen
from dlvm_jax.models.flows import Scalar, split_coupling, stack
from dlvm_jax.nets.conv import ConvResidual

__all__ = ["channel_coupling", "checkerboard", "from_logits", "glow", "multiscale", "realnvp", "reshaped"]


def _conv_coupling(scalar, kept_shape, moved_channels, channels, blocks, split, merge):
    net = ConvResidual(channels, blocks, moved_channels, scalar.width)
    return split_coupling(from_linen(net, (1, *kept_shape)), scalar, split, merge, event_ndim=3)


def checkerboard(scalar: Scalar, shape: tuple[int, ...], channels: int, blocks: int) -> Bijection:
    """Two couplings: the black squares move the white ones, then the other way round (Dinh et al. 2017, section 3.4)."""
    h, w, c = shape
    half = (h, w // 2, c)
    black = _conv_coupling(
        scalar, half, c, channels, blocks, image.checkerboard_split, image.checkerboard_merge
    )
    white = _conv_coupling(
        scalar,
        half,
        c,
        channels,
        blocks,
        lambda x: image.checkerboard_split(x)[::-1],
        lambda kept, moved: image.checkerboard_merge(moved, kept),
    )
    return chain(black, white)


def channel_coupling(scalar: Scalar, shape: tuple[int, ...], channels: int, blocks: int) -> Bijection:
    """A coupling of the two halves of the channels (Dinh et al. 2017, section 3.4)."""
    h, w, c = shape
    kept = c // 2
    return _conv_coupling(
        scalar,
        (h, w, kept),
        c - kept,
        channels,
        blocks,
        lambda x: (x[..., :kept], x[..., kept:]),
        lambda *parts: jnp.concatenate(parts, axis=-1),
    )


def multiscale(
    steps_of: Callable[[tuple[int, ...]], Bijection], shape: tuple[int, ...], scales: int
) -> Bijection:
    """At each scale: squeeze, a flow `steps_of(shape)`, and half of the channels are done (Dinh et al. 2017, section 3.6).

    Raises ValueError for less than one scale, and for sides that cannot be halved so often.
    """
    h, w, c = shape
    if scales < 1:
        raise ValueError(f"a multi-scale flow has at least one scale, got {scales}")
    if h % 2 or w % 2:
        raise ValueError(
            f"each scale of a multi-scale flow halves an image, got sides {h} x {w}; use fewer scales"
        )
    squeezed = (h // 2, w // 2, 4 * c)
    here = steps_of(squeezed)
    rest = multiscale(steps_of, (h // 2, w // 2, 2 * c), scales - 1) if scales > 1 else None
    done = math.prod(squeezed) // (2 if rest else 1)

    def init(key):
        key_here, key_rest = jax.random.split(key)
        return {"here": here.init(key_here), **({"rest": rest.init(key_rest)} if rest else {})}

    def forward(params, z, context=None):
        x, log_det = z[..., :done].reshape(*z.shape[:-1], *squeezed[:2], -1), 0.0
        if rest:
            below, log_det = rest.forward(params["rest"], z[..., done:], context)
            x = jnp.concatenate([x, below], axis=-1)
        x, more = here.forward(params["here"], x, context)
        return image.unsqueeze(x)[0], log_det + more

    def inverse(params, x, context=None):
        x, log_det = here.inverse(params["here"], image.squeeze(x)[0], context)
        flat = lambda x: x.reshape(*x.shape[:-3], -1)
        if rest is None:
            return flat(x), log_det
        mine, below = jnp.split(x, 2, axis=-1)
        below, more = rest.inverse(params["rest"], below, context)
        return jnp.concatenate([flat(mine), below], axis=-1), log_det + more

    def adapt(params, x, context=None):
        x, _ = image.squeeze(x)
        found = {"here": here.adapt(params["here"], x, context)}
        if rest:
            x, _ = here.inverse(found["here"], x, context)
            found["rest"] = rest.adapt(params["rest"], jnp.split(x, 2, axis=-1)[1], context)
        return found

    return Bijection(init, forward, inverse, adapt if here.adapt else None)


def from_logits(alpha: float = 1e-2, event_ndim: int = 3) -> Bijection:
    """From the real line to grey values in [0, 1], by the inverse of a logit that keeps a distance from the ends."""
    return Bijection(
        lambda key: {},
        lambda params, z, context=None: image.logit_inverse(z, alpha, event_ndim),
        lambda params, x, context=None: image.logit(x, alpha, event_ndim),
    )


def reshaped(shape: tuple[int, ...]) -> Bijection:
    """Flat vectors to images and back."""
    ndim = len(shape)
    zero = lambda x, n: jnp.zeros(x.shape[: x.ndim - n])
    return Bijection(
        lambda key: {},
        lambda params, z, context=None: (z.reshape(*z.shape[:-1], *shape), zero(z, 1)),
        lambda params, x, context=None: (x.reshape(*x.shape[: x.ndim - ndim], -1), zero(x, ndim)),
        affine=True,
    )


def _scales(scalar, shape, scales, steps, channels, blocks):
    """Glow's steps (Kingma & Dhariwal 2018, table 1) at several scales: a coupling, a linear map of the channels, actnorm."""

    def steps_of(shape):
        layer = channel_coupling(scalar, shape, channels, blocks)
        return stack(layer, shape[-1], steps, normalise=True, event_ndim=3)

    return multiscale(steps_of, shape, scales)


def glow(
    scalar: Scalar, shape: tuple[int, ...], scales: int, steps: int, channels: int, blocks: int
) -> Bijection:
    """A flow from a flat latent vector to images in [0, 1], of Glow's steps (Kingma & Dhariwal 2018).

    scalar: what the couplings move each number by;  shape: (h, w, c) of an image
    scales, steps: number of scales, and of steps at each, which are one scan
    channels, blocks: of the couplings' networks
    """
    return chain(_scales(scalar, shape, scales, steps, channels, blocks), from_logits())


def realnvp(
    scalar: Scalar, shape: tuple[int, ...], scales: int, steps: int, channels: int, blocks: int
) -> Bijection:
    """The same with checkerboard couplings before the first squeeze (Dinh, Sohl-Dickstein, Bengio 2017)."""
    board = repeated(checkerboard(scalar, shape, channels, blocks), max(1, steps // 2))
    return chain(_scales(scalar, shape, scales, steps, channels, blocks), board, from_logits())
