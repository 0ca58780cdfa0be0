"""Configuration of the flows for unnormalised targets, what it rules out, and the densities it stands for."""

import dataclasses
import math
from pathlib import Path
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from dlvm_jax.exact.energies import ENERGIES
from dlvm_jax.models import flow_densities, flows, scalars, sphere_flows
from dlvm_jax.models.curved import uniform_sphere
from dlvm_jax.models.density import from_linen, standard_normal
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP
from experiments import run as common

__all__ = ["FLOWS", "Config", "base", "build", "check", "resolved", "to_strip"]

STRIP = 4.0  # |z_1| of the targets on the strip


class Kind(NamedTuple):
    """Where a flow lives, and its default number of layers, of components and of bins (None: it has none)."""

    domains: tuple[str, ...]
    layers: int
    components: int | None = None
    bins: int | None = None


FLOWS = {
    "moebius": Kind(("torus",), 1, components=12),
    "non-compact-projection": Kind(("torus",), 1, components=12),
    "circular-spline": Kind(("torus",), 1, bins=12),
    "moebius-spline": Kind(("sphere",), 1, components=12, bins=32),
    "exponential": Kind(("sphere",), 6, components=5),
    "planar": Kind(("plane", "strip"), 32),
    "spline": Kind(("plane", "strip"), 4, bins=8),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a flow on a density known up to its constant, compare it with the exact one, and write a report with pictures."""

    target: Literal[tuple(ENERGIES)] = "torus multimodal"
    """unnormalised density; U1 lives in the plane, U2 to U4 on its strip |z_1| <= 4"""
    flow: Literal[tuple(FLOWS)] | None = None
    """torus: moebius, non-compact-projection, circular-spline; sphere: moebius-spline, exponential; plane and strip: planar,
    spline; default the first of its domain"""
    layers: int | None = None
    """layers; default 1 (6 of exponential, 32 of planar, 4 of spline)"""
    components: int | None = None
    """Moebius centres, projections or potentials; default 12 (5 of exponential)"""
    bins: int | None = None
    """bins of the splines; default 12 on the circle, 32 for the height on the sphere, 8 in the plane"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the layers of the conditioners"""
    steps: int = 10_000
    """training steps"""
    batch_size: int = 256
    """samples of a step"""
    learning_rate: float = 2e-3
    """peak learning rate of Adam"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """course of the learning rate"""
    annealing: int = 0
    """steps over which the target's weight rises from 0 to 1"""
    eval_samples: int = 20_000
    """samples for the evaluation"""
    seed: int = 0
    """random seed"""
    out: Path | None = None
    """run folder; default runs/flow-TARGET-001, 002, ..."""
    resume: bool = False
    """go on with the run in --out"""


def _domain(config):
    return ENERGIES[config.target].domain


def check(config):
    """Raise ValueError for impossible settings."""
    for name in ("layers", "components", "bins", "steps", "batch_size"):
        common.at_least(name, getattr(config, name), 1)
    common.at_least("annealing", config.annealing, 0)
    common.warn_of_unfinished("the annealing of the target", config.annealing, config.steps)
    common.at_least("eval_samples", config.eval_samples, 2)
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(f"--hidden needs at least one positive width, got {config.hidden}")
    if config.resume and config.out is None:
        raise ValueError("--resume goes on with the run in --out; say which")
    if config.flow is None:
        return
    kind, domain = FLOWS[config.flow], _domain(config)
    if domain not in kind.domains:
        fitting = " or ".join(name for name, other in FLOWS.items() if domain in other.domains)
        raise ValueError(
            f"--flow {config.flow} is for the {' and the '.join(kind.domains)}, "
            f"{config.target} lives on the {domain}; use --flow {fitting}"
        )


def resolved(config):
    """The configuration with its defaults filled in; raises ValueError for a number that the flow does not have."""
    flow = config.flow or next(name for name, kind in FLOWS.items() if _domain(config) in kind.domains)
    kind = FLOWS[flow]
    for name in ("components", "bins"):
        if getattr(config, name) is not None and getattr(kind, name) is None:
            raise ValueError(f"--flow {flow} has no {name}; leave --{name} out")
    return dataclasses.replace(
        config,
        flow=flow,
        layers=config.layers or kind.layers,
        components=config.components or kind.components,
        bins=config.bins or kind.bins,
    )


def to_strip():
    """The plane onto the strip |x_1| < 4 by the distribution function of the Gaussian: N(0, 1) becomes uniform."""

    def stretch(z):
        return math.log(2 * STRIP / math.sqrt(2 * math.pi)) - jnp.square(z[..., 0]) / 2

    def forward(params, z, context=None):
        return z.at[..., 0].set(STRIP * (2 * ndtr(z[..., 0]) - 1)), stretch(z)

    def inverse(params, x, context=None):
        eps = jnp.finfo(x.dtype).eps  # at the ends themselves z is infinite
        z = x.at[..., 0].set(ndtri(jnp.clip((x[..., 0] / STRIP + 1) / 2, eps, 1 - eps)))
        return z, -stretch(z)

    return flows.Bijection(lambda key: {}, forward, inverse)


def _step_of(flow):
    """A step of a `Flow` of `flow_densities` with trained numbers instead of a network's."""

    def step(function):
        def apply(params, z, context=None):
            return function(z, *(parameter[0] for parameter in flow.parameters(params[None])))

        return apply

    def init(key):
        return jax.random.normal(key, (flow.size,))

    return flows.Bijection(init, step(flow.forward), step(flow.inverse))


def _on_the_torus(config):
    scalar = {
        "moebius": lambda: scalars.moebius(config.components),
        "non-compact-projection": lambda: scalars.non_compact_projection(config.components),
        "circular-spline": lambda: scalars.circular_spline(config.bins),
    }[config.flow]()
    # Samples are what training needs: they take the network in one pass and the scalar in its closed form.
    opposite = scalar._replace(forward=scalar.inverse, inverse=scalar.forward)
    made = MADE(config.hidden, 2, scalar.width, periodic=True, bias_init=nn.initializers.normal(0.5))
    layer = flows.inverted(flows.masked_autoregressive(from_linen(made, (1, 2)), opposite))
    if config.layers == 1:
        return layer
    return flows.repeated(flows.chain(layer, flows.reverse(2)), config.layers)


def _on_the_sphere(config):
    if config.flow == "exponential":
        return flows.repeated(sphere_flows.exponential(config.components), config.layers)
    angle = scalars.moebius(config.components)
    net = from_linen(MLP(config.hidden, (angle.width,)), (1, 1))
    height = scalars.interval_spline(config.bins)
    return flows.repeated(sphere_flows.recursive(height, angle, net), config.layers)


def _in_the_plane(config):
    if config.flow == "planar":
        # the first bijection makes the base a Gaussian whose mean and deviations are trained
        return flows.chain(
            flows.actnorm(2), flows.repeated(_step_of(flow_densities.planar(2)), config.layers)
        )
    scalar = scalars.rational_quadratic(config.bins)
    net = from_linen(MLP(config.hidden, (1, scalar.width)), (1, 1))
    layer = flows.chain(flows.coupling(net, scalar, 1), flows.reverse(2))
    return flows.chain(flows.repeated(layer, config.layers), flows.actnorm(2))


def base(domain):
    """What a flow that does nothing has: the uniform density, in the plane the Gaussian."""
    return {
        "torus": lambda: flows.uniform_torus(2),
        "sphere": lambda: uniform_sphere(3),
        "plane": lambda: standard_normal(2),
        "strip": lambda: flows.transformed(standard_normal(2), to_strip()),
    }[domain]()


def build(config):
    """The density of a resolved configuration."""
    domain = _domain(config)
    if domain == "torus":
        return flows.transformed(base(domain), _on_the_torus(config))
    if domain == "sphere":
        return flows.transformed(base(domain), _on_the_sphere(config))
    bijection = _in_the_plane(config)
    if domain == "strip":
        bijection = flows.chain(bijection, to_strip())
    return flows.transformed(standard_normal(2), bijection)
