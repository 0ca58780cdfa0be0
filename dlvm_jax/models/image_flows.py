"""Flows on images: RealNVP's checkerboard, Glow's steps, and several scales.  The latent point is a flat vector."""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows import image
from dlvm_jax.models.density import from_linen
from dlvm_jax.models.flows import Bijection, actnorm, chain, lu_linear, repeated, split_coupling
from dlvm_jax.nets.conv import ConvResidual

__all__ = ["checkerboard", "from_logits", "glow", "glow_step", "multiscale", "realnvp", "reshaped"]


def _conv_coupling(scalar, kept_shape, moved_channels, channels, blocks, split, merge):
    net = ConvResidual(channels, blocks, moved_channels, scalar.width)
    return split_coupling(from_linen(net, (1, *kept_shape)), scalar, split, merge, event_ndim=3)


def checkerboard(scalar, shape, channels, blocks):
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


def glow_step(scalar, shape, channels, blocks):
    """Actnorm, a linear map of the channels, a coupling of their halves (Kingma & Dhariwal 2018, table 1)."""
    h, w, c = shape
    kept = c // 2
    halves = _conv_coupling(
        scalar,
        (h, w, kept),
        c - kept,
        channels,
        blocks,
        lambda x: (x[..., :kept], x[..., kept:]),
        lambda *parts: jnp.concatenate(parts, axis=-1),
    )
    return chain(halves, lu_linear(c, 3), actnorm(c, 3))


def multiscale(steps_of, shape, levels):
    """At each level: squeeze, a flow `steps_of(shape)`, and half of the channels are done (Dinh et al. 2017, section 3.6).

    Raises ValueError for less than one level, and for sides that cannot be halved so often.
    """
    h, w, c = shape
    if levels < 1:
        raise ValueError(f"a multi-scale flow has at least one level, got {levels}")
    if h % 2 or w % 2:
        raise ValueError(
            f"a level of a multi-scale flow halves an image, got sides {h} x {w}; use fewer levels"
        )
    squeezed = (h // 2, w // 2, 4 * c)
    here = steps_of(squeezed)
    rest = multiscale(steps_of, (h // 2, w // 2, 2 * c), levels - 1) if levels > 1 else None
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


def from_logits(alpha=1e-2, event_ndim=3):
    """From the real line to grey values in [0, 1], by the inverse of a logit that keeps a distance from the ends."""
    return Bijection(
        lambda key: {},
        lambda params, z, context=None: image.logit_inverse(z, alpha, event_ndim),
        lambda params, x, context=None: image.logit(x, alpha, event_ndim),
    )


def reshaped(shape):
    """Flat vectors to images and back."""
    ndim = len(shape)
    zero = lambda x, n: jnp.zeros(x.shape[: x.ndim - n])
    return Bijection(
        lambda key: {},
        lambda params, z, context=None: (z.reshape(*z.shape[:-1], *shape), zero(z, 1)),
        lambda params, x, context=None: (x.reshape(*x.shape[: x.ndim - ndim], -1), zero(x, ndim)),
    )


def glow(scalar, shape, levels, steps, channels, blocks):
    """A flow from a flat latent vector to images in [0, 1]: Glow's steps at several scales, each level a scan."""
    steps_of = lambda shape: repeated(glow_step(scalar, shape, channels, blocks), steps)
    return chain(multiscale(steps_of, shape, levels), from_logits())


def realnvp(scalar, shape, levels, steps, channels, blocks):
    """The same with checkerboard couplings before the first squeeze (Dinh, Sohl-Dickstein, Bengio 2017)."""
    steps_of = lambda shape: repeated(glow_step(scalar, shape, channels, blocks), steps)
    board = repeated(checkerboard(scalar, shape, channels, blocks), max(1, steps // 2))
    return chain(multiscale(steps_of, shape, levels), board, from_logits())
