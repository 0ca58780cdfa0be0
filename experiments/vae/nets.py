"""The networks of a VAE by name."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from dlvm_jax import nets
from dlvm_jax.models import density
from dlvm_jax.nets.masked import MADE

__all__ = ["critic", "last", "made", "make", "scaled", "shifted", "top"]

CONVOLUTIONS = {  # encoder, decoder
    "conv": (nets.ConvEncoder, nets.ConvDecoder),
    "gated-conv": (nets.GatedConvEncoder, nets.GatedConvDecoder),
}
GLOROT = nn.initializers.glorot_uniform()


def make(config, inputs, outputs, inwards=True):
    """A network of the configured kind; `inputs` is a shape, or a tuple of shapes to join; widths from the data inwards."""
    hidden, dtype = config.hidden if inwards else config.hidden[::-1], jnp.dtype(config.dtype)
    several = isinstance(inputs[0], tuple)
    example = tuple((1, *shape) for shape in inputs) if several else ((1, *inputs),)
    if config.net in CONVOLUTIONS and (not inwards or len(inputs) == 3):
        return density.from_linen(CONVOLUTIONS[config.net][not inwards](hidden, outputs, dtype), *example)
    glorot = {"kernel_init": GLOROT, "head_init": GLOROT, "activation": jnp.tanh}
    module = nets.MLP(
        hidden if config.net not in CONVOLUTIONS else (128,),  # what is no image: a vector to a vector
        outputs,
        tuple(len(shape) for shape in inputs) if several else len(inputs),
        gated=config.net == "gated",
        connect=config.net if config.net in ("residual", "dense") else "plain",
        dtype=dtype,
        **(glorot if config.net == "tanh" else {}),
    )
    return density.from_linen(module, *((example,) if several else example))


def made(config, latent, context=None):
    """A masked network of the latent vector, as wide as the widest hidden layer but not above 128."""
    module = MADE((min(max(config.hidden), 128),), latent, 2)
    return density.from_linen(module, ((1, latent), (1, context)) if context else (1, latent))


def critic(latent):
    """A discriminator of latent vectors, [*batch, latent] -> [*batch]."""
    return density.from_linen(nets.MLP((256, 256), ()), (1, latent))


def top(dataset):
    """The largest value of a pixel as the model sees it."""
    return dataset.levels - 1 if dataset.discrete else 1.0


def scaled(net, dataset, position=0):
    """The network with images on [0, 1]; `position` of the image where the input is a tuple."""
    highest = top(dataset)
    if highest == 1:
        return net

    def apply(params, inputs):
        if isinstance(inputs, tuple):
            inputs = (*inputs[:position], inputs[position] / highest, *inputs[position + 1 :])
            return net.apply(params, inputs)
        return net.apply(params, inputs / highest)

    return density.Net(net.init, apply)


def last(net, count):
    """The network of a vector's last `count` numbers."""
    return density.Net(net.init, lambda params, z: net.apply(params, z[..., -count:]))


def shifted(net, dataset):
    """The network of Bernoulli log-odds plus those of the training images' means, as if its last bias started there."""
    grey = np.asarray(dataset.train, np.float32)
    mean = np.clip(grey.mean(0) / max(float(grey.max()), 1.0), 0.001, 0.999)
    start = (np.log(mean) - np.log1p(-mean))[..., None]
    return density.Net(net.init, lambda params, z: net.apply(params, z) + start)
