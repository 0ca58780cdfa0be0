"""Flows: bijections with parameters, how they are put together, and the densities they make.

A `Bijection` takes latent points to data.  Couplings and autoregressive flows move each coordinate by a `Scalar`, a bijection
of one number whose parameters a network gives.  Names say which direction is fast: a masked autoregressive flow has its density
in one pass and is sampled one coordinate after another; `inverted` turns it round (the inverse autoregressive flow).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.flows import autoregressive as ar
from dlvm_jax.functional.flows import continuous as continuous_flow
from dlvm_jax.functional.flows import linear
from dlvm_jax.functional.numerics import sum_event
from dlvm_jax.models.density import DISCRETE, Density, batch_of, check_dim, check_event, join

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
    "repeated",
    "reverse",
    "split_coupling",
    "transformed",
    "uniform_torus",
]


class Bijection(NamedTuple):
    """A bijection from latent points z to data x, each way with the log-determinant of what it computes.

    init:    (key) -> params
    forward: (params, z, context=None) -> (x, log_det [*batch])
    inverse: (params, x, context=None) -> (z, log_det [*batch])
    adapt:   (params, x, context=None) -> params, set by data x as an initialisation; None where there is nothing to set
    """

    init: Callable
    forward: Callable
    inverse: Callable
    adapt: Callable | None = None


class Scalar(NamedTuple):
    """A bijection of one number, or one angle, whose `width` parameters a network gives.

    init: (key) -> params of its own;  forward, inverse: (params, z [*batch], numbers [*batch, width]) -> (value, log-derivative)
    """

    width: int
    init: Callable
    forward: Callable
    inverse: Callable


def _adapt(bijection, params, x, context):
    return params if bijection.adapt is None else bijection.adapt(params, x, context)


def chain(*bijections):
    """Bijections one after another, the first next to the latent points; each goes by its place in the parameters."""

    def init(key):
        keys = jax.random.split(key, len(bijections))
        return tuple(b.init(k) for b, k in zip(bijections, keys, strict=True))

    def forward(params, z, context=None):
        log_det = 0.0
        for bijection, own in zip(bijections, params, strict=True):
            z, more = bijection.forward(own, z, context)
            log_det = log_det + more
        return z, log_det

    def inverse(params, x, context=None):
        log_det = 0.0
        for bijection, own in zip(reversed(bijections), reversed(params), strict=True):
            x, more = bijection.inverse(own, x, context)
            log_det = log_det + more
        return x, log_det

    def adapt(params, x, context=None):
        found = []
        for bijection, own in zip(reversed(bijections), reversed(params), strict=True):
            found.append(_adapt(bijection, own, x, context))
            x, _ = bijection.inverse(found[-1], x, context)
        return tuple(reversed(found))

    return Bijection(init, forward, inverse, adapt if any(b.adapt for b in bijections) else None)


def repeated(bijection, depth, unroll=1):
    """The same bijection `depth` times, each with parameters of its own, in a scan: compile time does not grow with depth.

    unroll: layers of one turn of the scan.  Small layers train up to 1.7 times as fast on a CPU with `unroll=depth`, which then
    takes longer to compile; a loop inside the layer, as an autoregressive one has in one direction, makes that much longer.
    """
    if depth < 1 or unroll < 1:
        raise ValueError(f"a flow has at least one layer, got depth={depth}, unroll={unroll}")

    def init(key):
        return jax.vmap(bijection.init)(jax.random.split(key, depth))

    def composed(step, params, start, context, reverse):
        def layer(carry, own):
            value, log_det = carry
            value, more = step(own, value, context)
            return (value, log_det + more), None

        _, log_det = jax.eval_shape(lambda p: step(jax.tree.map(lambda a: a[0], p), start, context), params)
        zero = jnp.zeros(log_det.shape, log_det.dtype)
        return jax.lax.scan(layer, (start, zero), params, reverse=reverse, unroll=unroll)[0]

    def forward(params, z, context=None):
        return composed(bijection.forward, params, z, context, False)

    def inverse(params, x, context=None):
        return composed(bijection.inverse, params, x, context, True)

    def adapt(params, x, context=None):
        def layer(x, own):
            own = bijection.adapt(own, x, context)
            return bijection.inverse(own, x, context)[0], own

        return jax.lax.scan(layer, x, params, reverse=True)[1]

    return Bijection(init, forward, inverse, adapt if bijection.adapt else None)


def inverted(bijection):
    """The bijection with its directions exchanged.  Raises ValueError for one that adapts to data, which are at its other end."""
    if bijection.adapt is not None:
        raise ValueError("a bijection that adapts to data (actnorm, or a chain with one) cannot be inverted")
    return Bijection(bijection.init, bijection.inverse, bijection.forward)


def reverse(dim):
    """The coordinates in reversed order."""

    def flip(params, x, context=None):
        check_event(x, dim)
        return x[..., ::-1], jnp.zeros(x.shape[:-1])

    return Bijection(lambda key: {}, flip, flip)


def actnorm(channels, event_ndim=1):
    """A shift and a scale for each channel (last axis), which `adapt` sets so that the latent points have mean 0 and variance 1.

    Source: Kingma & Dhariwal 2018, section 3.1.
    """

    def init(key):
        return {"shift": jnp.zeros(channels), "log_scale": jnp.zeros(channels)}

    def forward(params, z, context=None):
        check_event(z, channels)
        return linear.affine_inverse(z, params["shift"], params["log_scale"], event_ndim)

    def inverse(params, x, context=None):
        check_event(x, channels)
        return linear.affine(x, params["shift"], params["log_scale"], event_ndim)

    def adapt(params, x, context=None):
        shift, log_scale = linear.actnorm_statistics(x)
        return {"shift": shift, "log_scale": log_scale}

    return Bijection(init, forward, inverse, adapt)


def lu_linear(channels, event_ndim=1, seed=0):
    """A linear map of the last axis by its LU factors, at first a random permutation (Durkan et al. 2019, section 4).

    The density takes a product, samples solve two triangular systems.
    """
    order = jnp.asarray(np.random.RandomState(seed).permutation(channels))
    signs = jnp.ones(channels)

    def init(key):
        square = jnp.zeros((channels, channels))
        return {"lower": square, "upper": square, "log_diagonal": jnp.zeros(channels)}

    def forward(params, z, context=None):
        return linear.lu_linear_inverse(z, linear.LU(order=order, signs=signs, **params), event_ndim)

    def inverse(params, x, context=None):
        return linear.lu_linear(x, linear.LU(order=order, signs=signs, **params), event_ndim)

    return Bijection(init, forward, inverse)


def continuous(net, steps=20, event_ndim=1):
    """The flow of a velocity field from t = 0 to 1, with the exact trace (Grathwohl et al. 2019).

    `net` maps (x, t [*batch]) or, with a context, (x, t, context) to a velocity like x.
    """

    def velocity(params, context):
        def field(x, t):
            t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[: x.ndim - event_ndim])
            return net.apply(params, x, t) if context is None else net.apply(params, x, t, context)

        return field

    def forward(params, z, context=None):
        return continuous_flow.continuous(z, velocity(params, context), steps, event_ndim)

    def inverse(params, x, context=None):
        return continuous_flow.continuous_inverse(x, velocity(params, context), steps, event_ndim)

    return Bijection(net.init, forward, inverse)


def coupling(net, scalar, size):
    """The first `size` coordinates stay as they are and tell a network how to move each of the others by a `Scalar`.

    The network maps [*batch, size], or a tuple with the context, to [*batch, dim - size, scalar.width].  Both directions are one
    pass.  Source: Dinh, Krueger, Bengio 2015, eq. 3; Dinh, Sohl-Dickstein, Bengio 2017, eq. 4 and 5.
    """
    return split_coupling(
        net, scalar, lambda x: (x[..., :size], x[..., size:]), lambda *parts: jnp.concatenate(parts, axis=-1)
    )


def split_coupling(net, scalar, split, merge, event_ndim=1):
    """A coupling of parts that `split` takes x into, (kept, moved), and `merge` puts together: of images, say."""

    def init(key):
        key_net, key_scalar = jax.random.split(key)
        return {"net": net.init(key_net), "scalar": scalar.init(key_scalar)}

    def step(move):
        def apply(params, x, context=None):
            kept, moved = split(x)
            numbers = net.apply(params["net"], join(kept, context))
            wanted = (*moved.shape[moved.ndim - event_ndim :], scalar.width)
            if numbers.shape[-len(wanted) :] != wanted:
                raise ValueError(
                    f"the network of a coupling must give [*batch, {', '.join(map(str, wanted))}], got {numbers.shape}"
                )
            moved, log_det = move(params["scalar"], moved, numbers)
            return merge(kept, moved), sum_event(log_det, event_ndim)

        return apply

    return Bijection(init, step(scalar.forward), step(scalar.inverse))


def masked_autoregressive(made, scalar):
    """Each coordinate of x is moved by a `Scalar` with parameters from those before it: z_i = T^-1(x_i; h(x_<i)).

    `made` maps x [*batch, dim], or (x, context), to [*batch, dim, scalar.width], and with a further argument i to row i of it.
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


def uniform_torus(dim):
    """The uniform density of dim angles in [-pi, pi)."""
    check_dim(dim)

    def log_prob(params, key, x, context=None):
        check_event(x, dim)
        return jnp.full(x.shape[:-1], -dim * math.log(2 * math.pi))

    def sample(params, key, context=None, shape=()):
        x = jax.random.uniform(key, (*shape, *batch_of(context), dim), minval=-math.pi, maxval=math.pi)
        return x, log_prob(params, None, x)

    return Density(lambda key: {}, sample, log_prob, "exact", space=f"the torus of {dim} angles")


def transformed(base, bijection):
    """The exact density of x = f(z) for z of an exact base density: log p(x) = log p(z) + log |det dz/dx|.

    Both see the context.  Raises ValueError for a base that is not exact, or of discrete values.
    """
    if base.space == DISCRETE:
        raise ValueError("a flow moves the mass of real points, got a base of discrete values")
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
        z, log_det = bijection.inverse(params["flow"], x, context)
        return base.log_prob(params["base"], key, z, context) + log_det

    return Density(init, sample, log_prob, "exact", reparameterised=base.reparameterised, space=base.space)


def data_dependent_init(density_params, bijection, x, context=None):
    """The parameters of a `transformed` density after its flow has been set by a batch of data (`actnorm`)."""
    return {**density_params, "flow": _adapt(bijection, density_params["flow"], x, context)}
