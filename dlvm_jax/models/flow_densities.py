"""Densities made by flows on R^n: flow posteriors, and the autoregressive prior.

A flow posterior is a diagonal Gaussian pushed through a flow.  One network of the context gives the Gaussian and the raw
parameters of the flow: each example has a flow of its own ("amortised").  `sample` computes the log-density on the way,
`log_prob` of a given z goes back through the inverse: both are exact.  The mean is known only of an affine flow, where it is the
Gaussian's pushed through the flow.

One step of a flow is a `Bijection` whose parameters are one array [width] of free numbers, the raw parameters, at first N(0, 1).
With a network's outputs in their place a posterior starts close to its Gaussian.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities
from dlvm_jax.functional.flows import autoregressive as ar
from dlvm_jax.functional.flows import constraints, orthogonal
from dlvm_jax.functional.flows import planar as planar_flow
from dlvm_jax.functional.flows import radial as radial_flow
from dlvm_jax.functional.flows import sylvester as sylvester_flow
from dlvm_jax.models.bijections import Bijection, repeated
from dlvm_jax.models.density import Density, Net, check_batches, check_event

__all__ = [
    "FLOWS",
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


def _require_positive(**sizes):
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"a flow needs a positive integer {name}, got {value!r}")


def _cut(raw_params, *shapes):
    """Consecutive pieces of the last axis, in the given shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    pieces = jnp.split(raw_params, ends[:-1], axis=-1)
    return [p.reshape(*raw_params.shape[:-1], *shape) for p, shape in zip(pieces, shapes, strict=True)]


def _step(width, parameters, forward, inverse, affine=False):
    """The `Bijection` of a functional pair whose parameters are `parameters(raw_params [*batch, width])`."""
    return Bijection(
        lambda key: jax.random.normal(key, (width,)),
        lambda raw_params, z, context=None: forward(z, *parameters(raw_params)),
        lambda raw_params, x, context=None: inverse(x, *parameters(raw_params)),
        affine=affine,
    )


def planar(dim: int) -> Bijection:
    """A step of the planar flow (Rezende & Mohamed 2015)."""
    _require_positive(dim=dim)

    def parameters(raw_params):
        w, u, b = _cut(raw_params, (dim,), (dim,), ())
        w = w / math.sqrt(dim)  # so that tanh does not saturate
        return w, constraints.planar_u_hat(w, _START * u), b

    return _step(2 * dim + 1, parameters, planar_flow.planar, planar_flow.planar_inverse)


def radial(dim: int) -> Bijection:
    """A step of the radial flow (Rezende & Mohamed 2015)."""
    _require_positive(dim=dim)

    def parameters(raw_params):
        centre, alpha, beta = _cut(raw_params, (dim,), (), ())
        # in units of a Gaussian's radius; never rounds to 0
        alpha = math.sqrt(dim) * jax.nn.softplus(alpha) + 1e-3
        return centre, alpha, constraints.radial_beta_hat(alpha, _START * beta)

    return _step(dim + 2, parameters, radial_flow.radial, radial_flow.radial_inverse)


def _triangles(raw_params, rank):
    """R, R~ and b from rank * (rank + 2) numbers: the two triangles share a square, R~ has a diagonal of its own."""
    square, diagonal, b = _cut(raw_params, (rank, rank), (rank,), (rank,))
    square = square / math.sqrt(rank)  # so that tanh does not saturate
    r = constraints.sylvester_triangle(_START * square)
    transposed = jnp.triu(jnp.swapaxes(square, -1, -2), 1) + diagonal[..., None] * jnp.eye(
        rank, dtype=diagonal.dtype
    )
    return r, constraints.sylvester_triangle(transposed), b


def sylvester_orthogonal(dim: int, rank: int | None = None) -> Bijection:
    """A step of the Sylvester flow in `rank` orthonormal directions, by default dim / 2 (O-SNF of van den Berg et al. 2018)."""
    rank = max(1, dim // 2) if rank is None else rank
    _require_positive(dim=dim, rank=rank)
    if rank > dim:
        raise ValueError(f"a Sylvester flow has at most dim = {dim} orthonormal directions, got rank={rank}")
    triangles = rank * (rank + 2)

    def parameters(raw_params):
        basis, rest = _cut(raw_params, (dim, rank), (triangles,))
        # full rank also where a network gives 0
        near = jnp.eye(dim, rank, dtype=basis.dtype) + basis / math.sqrt(dim)
        return orthogonal.orthonormal(near), *_triangles(rest, rank)

    return _step(
        dim * rank + triangles, parameters, sylvester_flow.sylvester, sylvester_flow.sylvester_inverse
    )


def _mirrors(raw_params):
    """Normals of reflections, all near the first axis: two in a row cancel, and v = 0 is far."""
    dim = raw_params.shape[-1]
    return jnp.eye(1, dim, dtype=raw_params.dtype)[0] + raw_params / math.sqrt(dim)


def sylvester_householder(dim: int, reflections: int = 8) -> Bijection:
    """A step of the Sylvester flow in a basis made of Householder reflections (H-SNF of van den Berg et al. 2018)."""
    _require_positive(dim=dim, reflections=reflections)
    triangles = dim * (dim + 2)

    def parameters(raw_params):
        v, rest = _cut(raw_params, (reflections, dim), (triangles,))
        return _mirrors(v), *_triangles(rest, dim)

    def in_basis(function):
        """Q f(Q^T z) for a flow f in the standard basis: the reflections are applied, their product is never formed."""

        def apply(z, v, *triangles):
            z, _ = orthogonal.householder_product_inverse(z, v)
            y, log_det = function(z, None, *triangles)
            return orthogonal.householder_product(y, v)[0], log_det

        return apply

    return _step(
        reflections * dim + triangles,
        parameters,
        in_basis(sylvester_flow.sylvester),
        in_basis(sylvester_flow.sylvester_inverse),
    )


def sylvester_triangular(dim: int) -> Bijection:
    """A step of the Sylvester flow in the standard basis (T-SNF of van den Berg et al. 2018, who reverse every second one)."""
    _require_positive(dim=dim)
    return _step(
        dim * (dim + 2),
        lambda raw_params: (None, *_triangles(raw_params, dim)),
        sylvester_flow.sylvester,
        sylvester_flow.sylvester_inverse,
    )


def householder(dim: int) -> Bijection:
    """A step of the Householder flow (Tomczak & Welling 2016), a reflection: the Gaussian's covariance becomes a full one."""
    _require_positive(dim=dim)
    reflect = orthogonal.householder
    return _step(dim, lambda raw_params: (_mirrors(_START * raw_params),), reflect, reflect, affine=True)


def _steps(step_of, alternate=False):
    def flow(dim: int, steps: int) -> Bijection:
        _require_positive(steps=steps)
        return repeated(step_of(dim), steps, alternate=alternate)

    return flow


FLOWS: dict[str, Callable[[int, int], Bijection]] = {  # (dim, steps) -> all the steps
    "planar": _steps(planar),
    "radial": _steps(radial),
    "sylvester-orthogonal": _steps(sylvester_orthogonal),
    "sylvester-householder": _steps(sylvester_householder),
    "sylvester-triangular": _steps(sylvester_triangular, alternate=True),
    "householder": _steps(householder),
}


def _steps_and_width(flow):
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(flow.init, jax.random.key(0)))]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"a flow posterior takes a flow whose parameters are one array [steps, width], got {shapes}; "
            "make it by FLOWS, or repeat its step"
        )
    return shapes[0]


def outputs_needed(flow: Bijection, dim: int) -> int:
    """How many numbers a network must give for `flow_posterior`: mean, log-standard deviation, the flow's raw parameters.

    Raises ValueError for a flow whose parameters are not one array [steps, width].
    """
    return 2 * dim + math.prod(_steps_and_width(flow))


def _pushed(init, base, bijection):
    """The density of f(z), z ~ N(mean, std^2): `base(params, context)` -> (mean, log_std, (params, context) of the bijection)."""

    def sample(params, key, context=None, shape=()):
        mean, log_std, (own, features) = base(params, context)
        z = densities.normal_sample(key, mean, log_std, shape)
        y, log_det = bijection.forward(own, z, features)
        return y, densities.normal_log_prob(z, mean, log_std) - log_det

    def log_prob(params, key, x, context=None):
        mean, log_std, (own, features) = base(params, context)
        x = check_event(x, mean.shape[-1])
        check_batches(x.shape[:-1], mean.shape[:-1])
        x = jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, mean.shape))
        z, log_det = bijection.inverse(own, x, features)
        return densities.normal_log_prob(z, mean, log_std) + log_det

    def mean(params, context=None):
        mean, _, (own, features) = base(params, context)
        return bijection.forward(own, mean, features)[0]

    return Density(init, sample, log_prob, "exact", mean if bijection.affine else None)


def flow_posterior(net: Net, flow: Bijection, dim: int) -> Density:
    """The exact density q(z | context) of a flow of `FLOWS`, its raw parameters from a network of the context.

    net: context -> [*batch, outputs_needed(flow, dim)];  z is [*batch, dim]

    Raises ValueError for another number of outputs.
    """
    steps, width = _steps_and_width(flow)
    needed = outputs_needed(flow, dim)

    def base(params, context):
        out = net.apply(params, context)
        if out.shape[-1] != needed:
            raise ValueError(
                f"{steps} steps of this flow on R^{dim} need {needed} numbers, the network gives {out.shape[-1]}"
            )
        mean, log_std, raw_params = _cut(out, (dim,), (dim,), (steps, width))
        return mean, log_std, (jnp.moveaxis(raw_params, -2, 0), None)

    return _pushed(net.init, base, flow)


def iaf_posterior(net: Net, made: Net, dim: int, steps: int) -> Density:
    """The exact density q(z | context) of an inverse autoregressive flow (Kingma et al. 2016, algorithm 1).

    net: context -> [*batch, 2 * dim + features], a Gaussian and the context h of the autoregressive networks
    made: (z [*batch, dim], h [*batch, features]) -> [*batch, dim, 2], the form of the autoregressive network of each step
    steps: every second one takes the coordinates in reversed order

    `sample` is one pass a step; `log_prob` of a given z is dim passes a step.
    Raises ValueError when the network leaves no number for h.
    """
    _require_positive(dim=dim, steps=steps)

    def step(function):
        def apply(params, z, h=None):
            def conditioner(z):
                out = made.apply(params, (z, h))
                return ar.gate(out[..., 0], out[..., 1] + 2)  # the paper's start, a gate nearly open

            return function(z, conditioner)

        return apply

    one = Bijection(made.init, step(ar.autoregressive), step(ar.autoregressive_inverse))
    flow = repeated(one, steps, alternate=True)

    def init(key):
        key_net, key_made = jax.random.split(key)
        return {"net": net.init(key_net), "made": flow.init(key_made)}

    def base(params, context):
        out = net.apply(params["net"], context)
        if out.shape[-1] <= 2 * dim:
            raise ValueError(
                f"the network gives {out.shape[-1]} numbers, no more than the Gaussian's {2 * dim}; add some for h"
            )
        mean, log_std, h = _cut(out, (dim,), (dim,), (out.shape[-1] - 2 * dim,))
        return mean, log_std, (params["made"], h)

    return _pushed(init, base, flow)
