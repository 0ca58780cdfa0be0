"""A decoder whose pixels depend on the latent vector and on the pixels before them: that of PixelVAE."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.models.autoregressive import autoregressive, stepper_from_linen
from dlvm_jax.models.density import (
    Density,
    Net,
    OutputDistribution,
    check_batches,
    check_shape,
    from_linen,
)
from dlvm_jax.models.tables import Tables, TableStepper

__all__ = ["pixel_decoder"]


def pixel_decoder(
    features: Net, pixels: nn.Module, distribution: OutputDistribution, event_shape: Sequence[int], depth: int
) -> Density:
    """The exact density p(x | z) = prod_i p(x_i | x_<i, z) of images (Gulrajani et al. 2017, section 3.1).

    features: z, or (z, context) -> an image [*batch, h, w, depth]
    pixels:   (x, that image) -> raw parameters [*batch, h, w, c, distribution.width], a causal module with `start` and `step`
    """
    event = tuple(event_shape)
    net = from_linen(pixels, ((1, *event), (1, *event[:2], depth)))
    inner = autoregressive(net, distribution, event, group=event[-1], stepper=stepper_from_linen(pixels))

    own: Any = inner.tables
    stepper: Any = own and own.stepper

    def init(key):
        keys = jax.random.split(key)
        return {"features": features.init(keys[0]), "pixels": net.init(keys[1])}

    def log_prob(params, key, x, context=None):
        x, image = check_shape(x, event), features.apply(params["features"], context)
        check_batches(x.shape[:-3], image.shape[:-3])
        batch = jnp.broadcast_shapes(x.shape[:-3], image.shape[:-3])
        flat = lambda a: jnp.broadcast_to(a, (*batch, *a.shape[-3:])).reshape(-1, *a.shape[-3:])
        return inner.log_prob(params["pixels"], None, flat(x), flat(image)).reshape(batch)

    def sample(params, key, context=None, shape=()):
        image = features.apply(params["features"], context)
        batch = *shape, *image.shape[:-3]
        x, found = inner.sample(params["pixels"], key, image.reshape(-1, *image.shape[-3:]), shape)
        return x.reshape(*batch, *event), found.reshape(batch)

    def log_probs(params, x, context=None):
        image = features.apply(params["features"], context)
        return own.log_probs(params["pixels"], x, image)

    def start(params, x, context):
        return stepper.start(params["pixels"], x, features.apply(params["features"], context))

    def step(params, kept, x, number):
        return stepper.step(params["pixels"], kept, x, number)

    tables = own and Tables(log_probs, own.steps, TableStepper(start, step))
    return inner._replace(init=init, sample=sample, log_prob=log_prob, tables=tables, complete=None)
