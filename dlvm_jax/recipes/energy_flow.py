"""Normalizing flows for densities that are known up to their constant, trained by the reverse KL, without data."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from dlvm_jax.data import Spec
from dlvm_jax.exact.energies import ENERGIES
from dlvm_jax.models import flow_densities, flows, objectives, scalars, sphere_flows
from dlvm_jax.models.curved import uniform_sphere
from dlvm_jax.models.density import Density, from_linen, standard_normal
from dlvm_jax.models.flows import Bijection
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP
from dlvm_jax.recipes.base import Model, Recipe
from dlvm_jax.settings import choice, setting

__all__ = ["ENERGY_FLOWS", "EnergyFlow", "base_of", "to_strip"]

STRIP = 4.0  # |z_1| of the targets on the strip
SCORED = 5_000  # samples that choose the checkpoint to keep
SCORE_KEY = 2**31  # apart from the keys of training

Resolved = Any  # an `EnergyFlow` whose numbers are filled in


class EnergyFlowKind(NamedTuple):
    """A flow by name.

    build:   (recipe) -> Bijection from the base of its domain;  domains: where it lives, the first that of its default
    layers, components, bins: their numbers where none are given; None: it has none
    """

    build: Callable[[Resolved], Bijection]
    domains: tuple[str, ...]
    layers: int
    components: int | None = None
    bins: int | None = None

    @property
    def help(self) -> str:
        """What a help text says of it."""
        return "on the " + " or the ".join(self.domains)


def to_strip() -> Bijection:
    """The plane onto the strip |x_1| < 4 by the distribution function of the Gaussian: N(0, 1) becomes uniform."""

    def stretch(z):
        return math.log(2 * STRIP / math.sqrt(2 * math.pi)) - jnp.square(z[..., 0]) / 2

    def forward(params, z, context=None):
        return z.at[..., 0].set(STRIP * (2 * ndtr(z[..., 0]) - 1)), stretch(z)

    def inverse(params, x, context=None):
        eps = jnp.finfo(x.dtype).eps  # at the ends themselves z is infinite
        z = x.at[..., 0].set(ndtri(jnp.clip((x[..., 0] / STRIP + 1) / 2, eps, 1 - eps)))
        return z, -stretch(z)

    return Bijection(lambda key: {}, forward, inverse)


def _torus(scalar_of: Callable[[Resolved], flows.Scalar], recipe: Resolved) -> Bijection:
    scalar = scalar_of(recipe)
    # Samples are what training needs: they take the network in one pass and the scalar in its closed form.
    opposite = scalar._replace(forward=scalar.inverse, inverse=scalar.forward)
    made = MADE(recipe.hidden, 2, scalar.width, periodic=True, bias_init=nn.initializers.normal(0.5))
    layer = flows.inverted(flows.masked_autoregressive(from_linen(made, (1, 2)), opposite))
    return layer if recipe.layers == 1 else flows.stack(layer, 2, recipe.layers, mixing="reverse")


def _moebius_spline(recipe: Resolved) -> Bijection:
    angle = scalars.moebius(recipe.components)
    net = from_linen(MLP(recipe.hidden, (angle.width,)), (1, 1))
    return flows.repeated(
        sphere_flows.recursive(scalars.interval_spline(recipe.bins), angle, net), recipe.layers
    )


def _exponential(recipe: Resolved) -> Bijection:
    return flows.repeated(sphere_flows.exponential(recipe.components), recipe.layers)


def _planar(recipe: Resolved) -> Bijection:
    # the first bijection makes the base a Gaussian whose mean and deviations are trained
    return flows.chain(flows.actnorm(2), flows.repeated(flow_densities.planar(2), recipe.layers))


def _spline(recipe: Resolved) -> Bijection:
    layer = flows.mlp_coupling(
        2, scalars.rational_quadratic(recipe.bins), recipe.hidden, head_init=nn.initializers.lecun_normal()
    )
    return flows.chain(flows.stack(layer, 2, recipe.layers, mixing="reverse"), flows.actnorm(2))


ENERGY_FLOWS = {
    "moebius": EnergyFlowKind(
        partial(_torus, lambda recipe: scalars.moebius(recipe.components)), ("torus",), 1, components=12
    ),
    "non-compact-projection": EnergyFlowKind(
        partial(_torus, lambda recipe: scalars.non_compact_projection(recipe.components)),
        ("torus",),
        1,
        components=12,
    ),
    "circular-spline": EnergyFlowKind(
        partial(_torus, lambda recipe: scalars.circular_spline(recipe.bins)), ("torus",), 1, bins=12
    ),
    "moebius-spline": EnergyFlowKind(_moebius_spline, ("sphere",), 1, components=12, bins=32),
    "exponential": EnergyFlowKind(_exponential, ("sphere",), 6, components=5),
    "planar": EnergyFlowKind(_planar, ("plane", "strip"), 32),
    "spline": EnergyFlowKind(_spline, ("plane", "strip"), 4, bins=8),
}


def base_of(domain: str) -> Density:
    """What a flow that does nothing has: the uniform density, in the plane the Gaussian."""
    return {
        "torus": lambda: flows.uniform_torus(2),
        "sphere": lambda: uniform_sphere(3),
        "plane": lambda: standard_normal(2),
        "strip": lambda: flows.transformed(standard_normal(2), to_strip()),
    }[domain]()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyFlow(Recipe):
    """A flow q fitted to an unnormalised density p~ by KL(q || p) (Rezende & Mohamed 2015; Rezende et al. 2020)."""

    target: str = choice(
        "torus multimodal",
        ENERGIES,
        "unnormalised density; U1 lives in the plane, U2 to U4 on its strip |z_1| <= 4",
    )
    flow: str | None = choice(None, ENERGY_FLOWS, "flow, by default the first of its domain")
    layers: int | None = setting(
        None, "layers; default 1 (6 of exponential, 32 of planar, 4 of spline)", at_least=1
    )
    components: int | None = setting(
        None, "Moebius centres, projections or potentials; default 12 (5 of exponential)", at_least=1
    )
    bins: int | None = setting(
        None,
        "bins of the splines; default 12 on the circle, 32 for the height on the sphere, 8 in the plane",
        at_least=1,
    )
    hidden: tuple[int, ...] = setting((64, 64), "widths of the layers of the networks", at_least=1)
    annealing: int = setting(0, "steps over which the target's weight rises from 0 to 1", at_least=0)

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 10_000,
        "batch_size": 256,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "clip": 10.0,
        "evaluations": 20,
    }

    @property
    def objective_warm_up(self) -> int:
        """Steps of annealing."""
        return self.annealing

    @property
    def domain(self) -> str:
        """Where the target lives."""
        return ENERGIES[self.target].domain

    def check(self) -> None:
        """Raise ValueError, in one line, for a flow of another domain, or numbers that it does not have."""
        super().check()
        if not self.hidden:
            raise ValueError(f"hidden needs at least one positive width, got {self.hidden}")
        if self.flow is None:
            return
        kind = ENERGY_FLOWS[self.flow]
        if self.domain not in kind.domains:
            fitting = " or ".join(
                name for name, other in ENERGY_FLOWS.items() if self.domain in other.domains
            )
            raise ValueError(
                f"flow={self.flow!r} is for the {' and the '.join(kind.domains)}, "
                f"{self.target} lives on the {self.domain}; use flow={fitting}"
            )
        for name in ("components", "bins"):
            if getattr(self, name) is not None and getattr(kind, name) is None:
                raise ValueError(f"flow={self.flow!r} has no {name}; leave {name} out")

    def resolved(self) -> Resolved:
        """The recipe with its defaults filled in."""
        flow = self.flow or next(name for name, kind in ENERGY_FLOWS.items() if self.domain in kind.domains)
        kind = ENERGY_FLOWS[flow]
        found = dataclasses.replace(
            self,
            flow=flow,
            layers=self.layers or kind.layers,
            components=self.components or kind.components,
            bins=self.bins or kind.bins,
        )
        found.check()
        return found

    def own_spec(self, batch_size: int) -> Spec:
        """Points of the target's domain; there are as many "examples" as a batch has, since only their number counts."""
        event = (3,) if self.domain == "sphere" else (2,)
        return Spec(self.target, "no data", "", event, batch_size, 0, False, 1.0)

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The flow on the target's domain; `parts` is its `exact.energies` target."""
        self.check()
        recipe, target = self.resolved(), ENERGIES[self.target]
        bijection = ENERGY_FLOWS[recipe.flow].build(recipe)
        base = base_of(self.domain)
        if self.domain == "strip":
            base, bijection = standard_normal(2), flows.chain(bijection, to_strip())
        density = flows.transformed(base, bijection)
        objective = objectives.reverse_kl(density, target.log_density)
        if self.annealing:
            objective = objectives.warm_up(
                lambda weight: objectives.reverse_kl(density, target.log_density, weight), 1.0, self.annealing
            )
        return Model(
            density,
            density.init,
            objective,
            objective,
            target,
            lambda params, x, key=None: bijection.inverse(params["flow"], x)[0],
            lambda params, z: bijection.forward(params["flow"], z)[0],
            score=_score(density, target),
        )


def _score(density: Density, target: Any) -> Callable[[Any], dict[str, float]]:
    """(params) -> how far q is from p, on samples that are the same each time.

    With w = p~/q the score is the mean of w/Z - 1 - log(w/Z): the KL by the exact log Z, with hardly any noise where q is near p.
    "effective" is the effective sample size in percent.
    """

    @jax.jit
    def log_weights(params):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), SCORE_KEY), 1)
        x, log_q = density.sample(params, key, shape=(SCORED,))
        return target.log_density(x) - log_q

    def score(params):
        with jax.default_matmul_precision("highest"):
            log_w = np.asarray(log_weights(params), np.float64) - target.log_partition
        w = np.exp(log_w)
        effective = 100 * w.sum() ** 2 / (SCORED * np.square(w).sum())
        return {"score": float(np.mean(w - 1 - log_w)), "effective": float(effective)}

    return score
