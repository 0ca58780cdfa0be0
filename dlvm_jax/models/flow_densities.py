"""Densities made by flows on R^n: amortised flow posteriors, and the autoregressive prior.

A posterior is a diagonal Gaussian pushed through a flow; one network of the context gives the Gaussian and the parameters of the
flow.  `sample` computes the log-density on the way, `log_prob` of a given z goes back through the inverse: both are exact.
The mean of the density is known only for a linear flow, where it is the Gaussian's pushed through the flow.

A posterior starts close to its Gaussian.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities
from dlvm_jax.functional.flows import autoregressive as ar
from dlvm_jax.functional.flows import constraints, orthogonal
from dlvm_jax.functional.flows import planar as planar_flow
from dlvm_jax.functional.flows import radial as radial_flow
from dlvm_jax.functional.flows import sylvester as sylvester_flow
from dlvm_jax.models.density import Density, batch_of, check_event, join

__all__ = [
    "FLOWS",
    "Flow",
    "autoregressive",
    "flow_posterior",
    "householder",
    "iaf_posterior",
    "outputs_needed",
    "planar",
    "radial",
    "sylvester_householder",
    "sylvester_orthogonal",
    "sylvester_triangular",
]

_START = 0.1  # how far an untrained network moves a flow from the identity


class Flow(NamedTuple):
    """One step of a flow on R^dim, and how `size` free numbers become its parameters.

    parameters(numbers [steps, *batch, size]) -> a tuple of arrays, steps first; forward(z, *parameters of a step) and
    inverse(y, *...) -> (value [*batch, dim], log_det [*batch]).  linear: whether the mean of forward(z) is forward of the mean.
    """

    dim: int
    size: int
    parameters: Callable
    forward: Callable
    inverse: Callable
    linear: bool = False


def _require_positive(**sizes):
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"a flow needs a positive integer {name}, got {value!r}")


def _cut(numbers, *shapes):
    """Consecutive pieces of the last axis, in the given shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    pieces = jnp.split(numbers, ends[:-1], axis=-1)
    return [p.reshape(*numbers.shape[:-1], *shape) for p, shape in zip(pieces, shapes, strict=True)]


def planar(dim):
    """Planar flow (Rezende & Mohamed 2015)."""
    _require_positive(dim=dim)

    def parameters(numbers):
        w, u, b = _cut(numbers, (dim,), (dim,), ())
        w = w / math.sqrt(dim)  # so that tanh does not saturate
        return w, constraints.planar_u_hat(w, _START * u), b

    return Flow(dim, 2 * dim + 1, parameters, planar_flow.planar, planar_flow.planar_inverse)


def radial(dim):
    """Radial flow (Rezende & Mohamed 2015)."""
    _require_positive(dim=dim)

    def parameters(numbers):
        centre, alpha, beta = _cut(numbers, (dim,), (), ())
        alpha = (
            math.sqrt(dim) * jax.nn.softplus(alpha) + 1e-3
        )  # in units of a Gaussian's radius; never rounds to 0
        return centre, alpha, constraints.radial_beta_hat(alpha, _START * beta)

    return Flow(dim, dim + 2, parameters, radial_flow.radial, radial_flow.radial_inverse)


def _triangles(numbers, rank):
    """R, R~ and b from rank * (rank + 2) numbers: the two triangles share a square, R~ has a diagonal of its own."""
    square, diagonal, b = _cut(numbers, (rank, rank), (rank,), (rank,))
    square = square / math.sqrt(rank)  # so that tanh does not saturate
    r = constraints.sylvester_triangle(_START * square)
    transposed = jnp.triu(jnp.swapaxes(square, -1, -2), 1) + diagonal[..., None] * jnp.eye(
        rank, dtype=diagonal.dtype
    )
    return r, constraints.sylvester_triangle(transposed), b


def sylvester_orthogonal(dim, rank=None):
    """Sylvester flow in `rank` orthonormal directions, by default dim / 2 (O-SNF of van den Berg et al. 2018)."""
    rank = max(1, dim // 2) if rank is None else rank
    _require_positive(dim=dim, rank=rank)
    if rank > dim:
        raise ValueError(f"a Sylvester flow has at most dim = {dim} orthonormal directions, got rank={rank}")
    triangles = rank * (rank + 2)

    def parameters(numbers):
        basis, rest = _cut(numbers, (dim, rank), (triangles,))
        near = jnp.eye(dim, rank, dtype=basis.dtype) + basis / math.sqrt(
            dim
        )  # full rank also where a network gives 0
        return orthogonal.orthonormal(near), *_triangles(rest, rank)

    forward, inverse = sylvester_flow.sylvester, sylvester_flow.sylvester_inverse
    return Flow(dim, dim * rank + triangles, parameters, forward, inverse)


def _mirrors(numbers):
    """Normals of reflections, all near the first axis: two in a row cancel, and v = 0 is far."""
    dim = numbers.shape[-1]
    return jnp.eye(1, dim, dtype=numbers.dtype)[0] + numbers / math.sqrt(dim)


def sylvester_householder(dim, reflections=8):
    """Sylvester flow in a basis made of Householder reflections (H-SNF of van den Berg et al. 2018)."""
    _require_positive(dim=dim, reflections=reflections)
    triangles = dim * (dim + 2)

    def parameters(numbers):
        v, rest = _cut(numbers, (reflections, dim), (triangles,))
        return _mirrors(v), *_triangles(rest, dim)

    def step(function, z, v, *parameters):
        """Q f(Q^T z) for a flow f in the standard basis: the reflections are applied, their product is never formed."""
        z, _ = orthogonal.householder_product_inverse(z, v)
        y, log_det = function(z, None, *parameters)
        return orthogonal.householder_product(y, v)[0], log_det

    forward, inverse = (
        partial(step, f) for f in (sylvester_flow.sylvester, sylvester_flow.sylvester_inverse)
    )
    return Flow(dim, reflections * dim + triangles, parameters, forward, inverse)


def _odd(steps):
    return jnp.arange(steps) % 2 == 1


def _turned(function, z, turn, *parameters):
    """A step on the coordinates in reversed order where `turn`, in their own order elsewhere."""
    y, log_det = function(jnp.where(turn, z[..., ::-1], z), *parameters)
    return jnp.where(turn, y[..., ::-1], y), log_det


def sylvester_triangular(dim):
    """Sylvester flow in the standard basis, its order reversed in every other step (T-SNF of van den Berg et al. 2018)."""
    _require_positive(dim=dim)

    def step(function, z, turn, *parameters):
        return _turned(lambda z: function(z, None, *parameters), z, turn)

    def parameters(numbers):
        return _odd(len(numbers)), *_triangles(numbers, dim)

    forward, inverse = (
        partial(step, f) for f in (sylvester_flow.sylvester, sylvester_flow.sylvester_inverse)
    )
    return Flow(dim, dim * (dim + 2), parameters, forward, inverse)


def householder(dim):
    """Householder flow (Tomczak & Welling 2016): a full-covariance Gaussian, rotated by one reflection a step."""
    _require_positive(dim=dim)

    def parameters(numbers):
        return (_mirrors(_START * numbers),)

    return Flow(dim, dim, parameters, orthogonal.householder, orthogonal.householder, linear=True)


FLOWS = {
    "planar": planar,
    "radial": radial,
    "sylvester-orthogonal": sylvester_orthogonal,
    "sylvester-householder": sylvester_householder,
    "sylvester-triangular": sylvester_triangular,
    "householder": householder,
}


def outputs_needed(flow, steps):
    """How many numbers a network must give for `flow_posterior`: a mean and a log-standard deviation, and `steps` flow steps."""
    _require_positive(steps=steps)
    return 2 * flow.dim + steps * flow.size


def _pushed(init, base, forward, inverse, linear=False):
    """The density of f(z), z ~ N(mean, std^2): `base(params, context)` -> (mean, log_std, the flow's parameters)."""

    def sample(params, key, context=None, shape=()):
        mean, log_std, flow = base(params, context)
        z = densities.normal_sample(key, mean, log_std, shape)
        y, log_det = forward(z, *flow)
        return y, densities.normal_log_prob(z, mean, log_std) - log_det

    def log_prob(params, key, x, context=None):
        mean, log_std, flow = base(params, context)
        check_event(x, mean.shape[-1])
        z, log_det = inverse(jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, mean.shape)), *flow)
        return densities.normal_log_prob(z, mean, log_std) + log_det

    def mean(params, context=None):
        mean, _, flow = base(params, context)
        return forward(mean, *flow)[0]

    return Density(init, sample, log_prob, "exact", mean if linear else None)


def _composed(step, z, parameters, reverse=False):
    """The steps one after another, and the sum of their log-determinants."""

    def advance(carry, parameters):
        z, log_det = carry
        z, more = step(z, *parameters)
        return (z, log_det + more), None

    start = (z, jnp.zeros(z.shape[:-1], jnp.promote_types(z.dtype, jnp.float32)))
    return jax.lax.scan(advance, start, parameters, reverse=reverse)[0]


def flow_posterior(net, flow, steps):
    """The exact density q(z | context) of `steps` steps of a `Flow`, all their parameters from a network of the context.

    The network maps the context to [*batch, outputs_needed(flow, steps)]; z is [*batch, flow.dim].  Raises ValueError for another
    number of outputs.
    """
    dim, needed = flow.dim, outputs_needed(flow, steps)

    def base(params, context):
        out = net.apply(params, context)
        if out.shape[-1] != needed:
            raise ValueError(
                f"{steps} steps of this flow on R^{dim} need {needed} numbers, the network gives {out.shape[-1]}"
            )
        mean, log_std, numbers = _cut(out, (dim,), (dim,), (steps, flow.size))
        return mean, log_std, flow.parameters(jnp.moveaxis(numbers, -2, 0))

    def forward(z, *parameters):
        return _composed(flow.forward, z, parameters)

    def inverse(y, *parameters):
        return _composed(flow.inverse, y, parameters, reverse=True)

    return _pushed(net.init, base, forward, inverse, flow.linear)


def iaf_posterior(net, made, dim, steps):
    """The exact density q(z | context) of an inverse autoregressive flow (Kingma et al. 2016, algorithm 1).

    The network maps the context to [*batch, 2 * dim + features]: a Gaussian and the context h of the autoregressive networks, all
    of the form `made`, which maps (z [*batch, dim], h [*batch, features]) to [*batch, dim, 2].  The order of the coordinates is
    reversed in every other step.  `sample` is one pass a step; `log_prob` of a given z is dim passes a step.
    Raises ValueError when the network leaves no number for h.
    """
    _require_positive(dim=dim, steps=steps)

    def init(key):
        key_net, key_made = jax.random.split(key)
        return {"net": net.init(key_net), "made": jax.vmap(made.init)(jax.random.split(key_made, steps))}

    def base(params, context):
        out = net.apply(params["net"], context)
        if out.shape[-1] <= 2 * dim:
            raise ValueError(
                f"the network gives {out.shape[-1]} numbers, no more than the Gaussian's {2 * dim}; add some for h"
            )
        mean, log_std, h = _cut(out, (dim,), (dim,), (out.shape[-1] - 2 * dim,))
        return mean, log_std, (params["made"], h)

    def composed(function, z, weights, h, reverse=False):
        def step(z, turn, weights):
            def conditioner(z):
                out = made.apply(weights, (z, h))
                return ar.gate(out[..., 0], out[..., 1] + 2)  # the paper's start, a gate nearly open

            return _turned(lambda z: function(z, conditioner), z, turn)

        return _composed(step, z, (_odd(steps), weights), reverse)

    forward = partial(composed, ar.autoregressive)
    inverse = partial(composed, ar.autoregressive_inverse, reverse=True)
    return _pushed(init, base, forward, inverse)


def autoregressive(made, dim):
    """The exact density p(z) = prod_i N(z_i | mu_i(z_<i), sigma_i(z_<i)^2): an autoregressive prior (Chen et al. 2017).

    `made` maps z [*batch, dim], or (z, context), to [*batch, dim, 2], mean and log-standard deviation, or with a further
    argument i to row i of them.  `log_prob` is one pass, `sample` dim passes of one row each.
    """
    _require_positive(dim=dim)

    def law(params, z, context):
        out = made.apply(params, join(z, context))
        return out[..., 0], out[..., 1]

    def log_prob(params, key, x, context=None):
        return densities.normal_log_prob(x, *law(params, x, context))

    def sample(params, key, context=None, shape=()):
        def solve(z, eps, i):
            out = made.apply(params, join(z, context), i)
            return densities.reparameterise(eps, out[..., 0], out[..., 1]), out[..., 1]

        eps = jax.random.normal(key, (*shape, *batch_of(context), dim))
        z, log_det = ar.forward_substitution(solve, eps)
        return z, densities.normal_log_prob(eps, 0.0, 0.0) - log_det

    return Density(made.init, sample, log_prob, "exact")
