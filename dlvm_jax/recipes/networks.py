"""The networks of a VAE by name."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from dlvm_jax import nets
from dlvm_jax.data import Spec
from dlvm_jax.models import density
from dlvm_jax.models.density import Net
from dlvm_jax.nets.masked import MADE

__all__ = [
    "DTYPES",
    "NETS",
    "NetworkSettings",
    "check_images",
    "critic",
    "last",
    "made",
    "network",
    "scaled",
    "shifted",
    "top",
]

DTYPES = {"float32": "", "bfloat16": ""}
GLOROT = nn.initializers.glorot_uniform()
Shape = tuple[int, ...]


class NetKind(NamedTuple):
    """A kind of encoder and decoder.

    options: of `nets.MLP`, for dense networks
    images:  (encoder, decoder) modules, for convolutional ones, which take images alone; None for dense ones
    """

    help: str
    options: dict[str, Any] = {}  # noqa: RUF012
    images: tuple[Callable, Callable] | None = None


NETS = {
    "mlp": NetKind("dense layers of ReLU", {}),
    "tanh": NetKind(
        "dense layers of tanh with Glorot's uniform initial weights",
        {"kernel_init": GLOROT, "head_init": GLOROT, "activation": jnp.tanh},
    ),
    "gated": NetKind("gated dense layers", {"gated": True}),
    "residual": NetKind("dense layers with residual connections", {"connect": "residual"}),
    "dense": NetKind("each layer sees all before it", {"connect": "dense"}),
    "conv": NetKind("a small convolutional pair", {}, (nets.ConvEncoder, nets.ConvDecoder)),
    "gated-conv": NetKind(
        "the gated convolutions of van den Berg et al. 2018",
        {},
        (nets.GatedConvEncoder, nets.GatedConvDecoder),
    ),
}


class NetworkSettings(Protocol):
    """The settings of a recipe that say what its networks are."""

    @property
    def net(self) -> str:
        """A name of `NETS`."""
        ...

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers, from the data inwards."""
        ...

    @property
    def dtype(self) -> str:
        """Compute type."""
        ...


def network(settings: NetworkSettings, inputs: tuple[Any, ...], outputs: Shape, inwards: bool = True) -> Net:
    """A network of the kind that the settings name.

    inputs: a shape, or a tuple of shapes whose arrays are joined;  outputs: a shape
    inwards: whether it is an encoder; the widths of the settings go from the data inwards
    """
    kind, dtype = NETS[settings.net], jnp.dtype(settings.dtype)
    hidden = settings.hidden if inwards else settings.hidden[::-1]
    several = isinstance(inputs[0], tuple)
    example = tuple((1, *shape) for shape in inputs) if several else ((1, *inputs),)
    if kind.images and (not inwards or len(inputs) == 3):
        return density.from_linen(kind.images[not inwards](hidden, outputs, dtype), *example)
    module = nets.MLP(
        hidden if not kind.images else (128,),  # what is no image: a vector to a vector
        outputs,
        tuple(len(shape) for shape in inputs) if several else len(inputs),
        dtype=dtype,
        **kind.options,
    )
    return density.from_linen(module, *((example,) if several else example))


def check_images(net: str, spec: Spec) -> None:
    """Raise ValueError where a kind of network is of images, and the data are not."""
    if NETS[net].images and len(spec.event_shape) != 3:
        raise ValueError(
            f"net={net!r} needs images [H, W, C], the examples have shape {spec.event_shape}; use net='mlp'"
        )


def made(settings: NetworkSettings, dim: int, context: int | None = None) -> Net:
    """A masked network of a vector, as wide as the widest hidden layer but not above 128."""
    module = MADE((min(max(settings.hidden), 128),), dim, 2)
    return density.from_linen(module, ((1, dim), (1, context)) if context else (1, dim))


def critic(dim: int) -> Net:
    """A discriminator of vectors, [*batch, dim] -> [*batch]."""
    return density.from_linen(nets.MLP((256, 256), ()), (1, dim))


def top(spec: Spec) -> float:
    """The largest value of an element as the model sees it: of levels the last one, else 1."""
    return spec.levels - 1 if spec.discrete else 1.0


def scaled(net: Net, spec: Spec, position: int = 0) -> Net:
    """The network with images on [0, 1]; `position` of the image where the input is a tuple."""
    highest = top(spec)
    if highest == 1:
        return net

    def apply(params, inputs):
        inputs = density.as_arrays(inputs)
        if isinstance(inputs, tuple):
            inputs = (*inputs[:position], inputs[position] / highest, *inputs[position + 1 :])
            return net.apply(params, inputs)
        return net.apply(params, inputs / highest)

    return Net(net.init, apply)


def last(net: Net, count: int) -> Net:
    """The network of a vector's last `count` elements."""
    return Net(net.init, lambda params, z: net.apply(params, z[..., -count:]))


def shifted(net: Net, start: np.ndarray) -> Net:
    """The network plus a constant, as if its last bias started there."""
    return Net(net.init, lambda params, z: net.apply(params, z) + start)
