"""Flows: layers of bijections, the usual stack of them, and the densities they make.

A `Bijection` takes latent points to data.  Couplings and autoregressive flows move each coordinate by a `Scalar`, a bijection
of one number whose raw parameters a network gives.  A flow is usually a `stack` of such layers.
A masked autoregressive flow has its density in one pass and is sampled one coordinate after another; `inverted` exchanges the
two directions (the inverse autoregressive flow).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlvm_jax.functional.flows import autoregressive as ar
from dlvm_jax.functional.numerics import as_array, as_wide, sum_event
from dlvm_jax.models import spaces
from dlvm_jax.models.bijections import (
    Bijection,
    actnorm,
    chain,
    continuous,
    inverted,
    lu_linear,
    repeated,
    reverse,
)
from dlvm_jax.models.density import Density, Net, batch_of, check_dim, check_event, from_linen, join
from dlvm_jax.nets.mlp import MLP, SMALL
from dlvm_jax.settings import pick

__all__ = [
    "Bijection",
    "Scalar",
    "actnorm",
    "chain",
    "continuous",
    "coupling",
    "data_dependent_init",
    "inverted",
    "lu_linear",
    "masked_autoregressive",
    "mlp_coupling",
    "repeated",
    "reverse",
    "split_coupling",
    "stack",
    "transformed",
    "uniform_torus",
]


class Scalar(NamedTuple):
    """A bijection of one number, or one angle, with `width` raw parameters from a network and trained ones of its own.

    init:    (key) -> its own params, {} for most
    forward: (params, z [*batch], raw_params [*batch, width]) -> (x, log-derivative [*batch])
    inverse: (params, x [*batch], raw_params [*batch, width]) -> (z, log-derivative [*batch])
    """

    width: int
    init: Callable
    forward: Callable
    inverse: Callable


def coupling(net: Net, scalar: Scalar, size: int) -> Bijection:
    """The first `size` coordinates stay as they are; a network of them says how each of the others is moved by a `Scalar`.

    net: [*batch, size], or a tuple with the context -> [*batch, dim - size, scalar.width]

    Both directions are one pass.
    Source: Dinh, Krueger, Bengio 2015, eq. 3; Dinh, Sohl-Dickstein, Bengio 2017, eq. 4 and 5.
    """
    return split_coupling(
        net, scalar, lambda x: (x[..., :size], x[..., size:]), lambda *parts: jnp.concatenate(parts, axis=-1)
    )


def split_coupling(
    net: Net, scalar: Scalar, split: Callable, merge: Callable, event_ndim: int = 1
) -> Bijection:
    """A coupling of any two parts of x, of images, say.

    split: x -> (kept, moved);  merge: (kept, moved) -> x
    net: kept, or a tuple with the context -> [*shape of moved, scalar.width]
    """

    def init(key):
        key_net, key_scalar = jax.random.split(key)
        return {"net": net.init(key_net), "scalar": scalar.init(key_scalar)}

    def step(move):
        def apply(params, x, context=None):
            kept, moved = split(x)
            raw_params = net.apply(params["net"], join(kept, context))
            wanted = (*moved.shape[moved.ndim - event_ndim :], scalar.width)
            if raw_params.shape[-len(wanted) :] != wanted:
                raise ValueError(
                    f"the network of a coupling must give [*batch, {', '.join(map(str, wanted))}], got {raw_params.shape}"
                )
            moved, log_det = move(params["scalar"], moved, raw_params)
            return merge(kept, moved), sum_event(log_det, event_ndim)

        return apply

    return Bijection(init, step(scalar.forward), step(scalar.inverse))


def mlp_coupling(
    dim: int,
    scalar: Scalar,
    hidden: tuple[int, ...],
    activation: Callable = nn.relu,
    head_init: Callable = SMALL,
) -> Bijection:
    """A `coupling` of the two halves of a vector, the first dim // 2 coordinates kept, by a perceptron of widths `hidden`.

    Raises ValueError for a vector that has no two halves.
    """
    if dim < 2:
        raise ValueError(
            f"a coupling needs at least two coordinates, one to keep and one to move, got dim={dim}"
        )
    size = dim // 2
    net = MLP(hidden, (dim - size, scalar.width), activation=activation, head_init=head_init)
    return coupling(from_linen(net, (1, size)), scalar, size)


def masked_autoregressive(made: Net, scalar: Scalar) -> Bijection:
    """Each coordinate of x is moved by a `Scalar` with raw parameters from those before it: z_i = T^-1(x_i; h(x_<i)).

    made: x [*batch, dim], or (x, context) -> [*batch, dim, scalar.width]; with a further argument i, row i of that

    `inverse` (the density) is one pass; `forward` (samples) finds one coordinate after another, each once.
    Source: Papamakarios, Pavlakou, Murray 2017, eq. 2 and 3; Durkan et al. 2019, section 3.2.
    """

    def init(key):
        key_made, key_scalar = jax.random.split(key)
        return {"made": made.init(key_made), "scalar": scalar.init(key_scalar)}

    def inverse(params, x, context=None):
        z, log_det = scalar.inverse(params["scalar"], x, made.apply(params["made"], join(x, context)))
        return z, log_det.sum(-1)

    def forward(params, z, context=None):
        def solve(x, z_i, i):
            return scalar.forward(params["scalar"], z_i, made.apply(params["made"], join(x, context), i))

        return ar.forward_substitution(solve, z)

    return Bijection(init, forward, inverse)


MIXINGS = {"lu": lu_linear, "reverse": reverse}


def stack(
    layer: Bijection,
    channels: int,
    depth: int,
    *,
    mixing: str = "lu",
    normalise: bool = False,
    event_ndim: int = 1,
    unroll: int = 1,
) -> Bijection:
    """The usual flow: `depth` times a layer, a mixing of the coordinates (without it some would never move), and actnorm.

    layer: moves some of the coordinates, or each by those before it: a coupling, a masked autoregressive layer
    channels: size of the last axis, which is mixed
    mixing: "lu", a trained linear map (`lu_linear`), or "reverse", its reversed order
    normalise: with an `actnorm`, set by data
    event_ndim: axes of an event;  unroll: as in `repeated`

    Raises ValueError for an unknown mixing.
    """
    layers = [layer, pick(MIXINGS, mixing, "mixing")(channels, event_ndim)]
    if normalise:
        layers.append(actnorm(channels, event_ndim))
    return repeated(chain(*layers), depth, unroll)


def uniform_torus(dim: int) -> Density:
    """The uniform density of `dim` angles in [-pi, pi)."""
    check_dim(dim)

    def log_prob(params, key, x, context=None):
        x = as_wide(check_event(x, dim))
        value = jnp.full(x.shape[:-1], -dim * math.log(2 * math.pi), x.dtype)
        return jnp.where(jnp.isnan(x).any(-1), jnp.nan, value)

    def sample(params, key, context=None, shape=()):
        x = jax.random.uniform(key, (*shape, *batch_of(context), dim), minval=-math.pi, maxval=math.pi)
        return x, log_prob(params, None, x)

    return Density(lambda key: {}, sample, log_prob, "exact", space=spaces.torus(dim))


def transformed(base: Density, bijection: Bijection) -> Density:
    """The exact density of x = f(z) for z of an exact base density: log p(x) = log p(z) + log |det dz/dx|.

    Both see the context.  Raises ValueError for a base that is not exact, or of discrete values.
    """
    if base.space.levels:
        raise ValueError(f"a flow moves the mass of real points, got a base of {base.space}")
    if base.kind != "exact":
        raise ValueError(
            f"a flow has an exact density only over an exact base, got one of kind {base.kind!r}"
        )

    def init(key):
        key_base, key_flow = jax.random.split(key)
        return {"base": base.init(key_base), "flow": bijection.init(key_flow)}

    def sample(params, key, context=None, shape=()):
        z, log_prob = base.sample(params["base"], key, context, shape)
        if log_prob is None:
            log_prob = base.log_prob(params["base"], None, z, context)
        x, log_det = bijection.forward(params["flow"], z, context)
        return x, log_prob - log_det

    def log_prob(params, key, x, context=None):
        z, log_det = bijection.inverse(params["flow"], as_array(x), context)
        return base.log_prob(params["base"], key, z, context) + log_det

    return Density(init, sample, log_prob, "exact", reparameterised=base.reparameterised, space=base.space)


def data_dependent_init(density_params: Any, bijection: Bijection, x: jax.Array, context: Any = None) -> Any:
    """The parameters of a `transformed` density after its flow has been set by a batch of data (`actnorm`)."""
    if bijection.adapt is None:
        return density_params
    return {**density_params, "flow": bijection.adapt(density_params["flow"], x, context)}
