"""Normalizing flows fitted to data: vectors, rows of tables, dequantised images."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dlvm_jax.data import Spec
from dlvm_jax.models import density, flows, image_flows, objectives, scalars
from dlvm_jax.models.flows import Bijection, Scalar
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP
from dlvm_jax.recipes.base import Model, Recipe
from dlvm_jax.settings import choice, setting

__all__ = ["FLOWS", "Flow"]

SPLINE_BOUND = 6.0
NODES = 16  # of the quadrature of a monotonic network
VALIDATED = 2000  # held-out examples of an evaluation
WIDEST_LU = 64  # above it a learned mixing has too many parameters


class Velocity(nn.Module):
    """A velocity field on vectors, of x and t (and a context)."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, *context: jax.Array) -> jax.Array:
        """The velocity at x [*batch, dim] and t [*batch]."""
        return MLP(self.hidden, x.shape[-1:], activation=nn.tanh)((x, t[..., None], *context))


class FlowKind(NamedTuple):
    """A flow by name.

    build: (recipe, scalar, event_shape) -> Bijection;  scalar: (recipe) -> the bijection of each element, None: it has none
    images: whether it is of images alone;  uses: settings that belong to it
    """

    build: Callable[["Flow", Scalar | None, tuple[int, ...]], Bijection]
    help: str
    scalar: Callable[["Flow"], Scalar] | None = None
    images: bool = False
    uses: tuple[str, ...] = ()


def _affine(recipe: "Flow") -> Scalar:
    return scalars.affine()


def _spline(recipe: "Flow") -> Scalar:
    return scalars.rational_quadratic(recipe.bins, SPLINE_BOUND)


def _umnn(recipe: "Flow") -> Scalar:
    net = MLP((recipe.width, recipe.width), (1,), activation=nn.tanh)
    return scalars.umnn(density.from_linen(net, (1, NODES + 1)), NODES)


def _stacked(layer: Bijection, dim: int, depth: int, unroll: int, event_shape: tuple[int, ...]) -> Bijection:
    mixing = "lu" if dim <= WIDEST_LU else "reverse"
    stack = flows.stack(layer, dim, depth, mixing=mixing, normalise=True, unroll=unroll)
    if len(event_shape) == 1:
        return stack
    return flows.chain(stack, image_flows.reshaped(event_shape), image_flows.from_logits())


def _coupling(recipe, scalar, event_shape):
    dim = math.prod(event_shape)
    layer = flows.mlp_coupling(dim, scalar, recipe.layer_widths)
    return _stacked(layer, dim, recipe.depth, min(recipe.depth, 8), event_shape)


def _autoregressive(recipe, scalar, event_shape):
    dim = math.prod(event_shape)
    made = density.from_linen(MADE(recipe.layer_widths, dim, scalar.width), (1, dim))
    return _stacked(flows.masked_autoregressive(made, scalar), dim, recipe.depth, 1, event_shape)


def _continuous(recipe, scalar, event_shape):
    dim = math.prod(event_shape)
    velocity = density.from_linen(Velocity(recipe.layer_widths), (1, dim), (1,))
    return _stacked(flows.continuous(velocity), dim, 1, 1, event_shape)


def _image(make):
    def build(recipe, scalar, event_shape):
        return make(scalar, event_shape, recipe.scales, recipe.depth, recipe.width, recipe.hidden)

    return build


FLOWS = {
    "coupling": FlowKind(_coupling, "affine couplings", _affine),
    "spline-coupling": FlowKind(
        _coupling, "couplings by rational-quadratic splines", _spline, uses=("bins",)
    ),
    "autoregressive": FlowKind(_autoregressive, "masked autoregressive, affine", _affine),
    "spline-autoregressive": FlowKind(
        _autoregressive, "masked autoregressive, by splines", _spline, uses=("bins",)
    ),
    "umnn": FlowKind(_autoregressive, "masked autoregressive, by monotonic networks", _umnn),
    "continuous": FlowKind(_continuous, "the flow of an ODE"),
    "glow": FlowKind(_image(image_flows.glow), "images, affine", _affine, True, ("scales",)),
    "spline-glow": FlowKind(
        _image(image_flows.glow), "images, by splines", _spline, True, ("scales", "bins")
    ),
    "realnvp": FlowKind(_image(image_flows.realnvp), "images, affine", _affine, True, ("scales",)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(Recipe):
    """A normalizing flow from a standard Gaussian, trained by maximum likelihood."""

    flow: str = choice("spline-coupling", FLOWS, "flow")
    depth: int = setting(4, "layers, or steps of each scale of an image flow", at_least=1)
    scales: int = setting(2, "scales of an image flow", at_least=1)
    width: int = setting(64, "width of the hidden layers of the networks", at_least=1)
    hidden: int = setting(2, "hidden layers, or residual blocks", at_least=1)
    bins: int = setting(16, "bins of a spline", at_least=1)

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 4000,
        "batch_size": 256,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warm_up": 0.05,
        "clip": 5.0,
        "ema": 0.99,
        "evaluations": 20,
    }

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers of a dense network."""
        return (self.width,) * self.hidden

    @property
    def transform(self) -> str:
        """A flow is of real values: integer levels are dequantised by uniform noise."""
        return "dequantised"

    def held_out(self, examples: Any) -> Any:
        """The first 2000: a flow's density is exact, so that few of them choose the best checkpoint."""
        return np.asarray(examples[:VALIDATED], np.float32)

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        if spec.discrete:
            raise ValueError(
                f"a flow is of real values, the protocol {spec.protocol!r} has {spec.levels} integer levels; "
                "use the protocol 'dequantised'"
            )
        if FLOWS[self.flow].images and len(spec.event_shape) != 3:
            vectors = [name for name, kind in FLOWS.items() if not kind.images]
            raise ValueError(
                f"flow={self.flow!r} is for images, {spec.name} is of vectors; use one of {', '.join(vectors)}"
            )
        if "coupling" in self.flow and math.prod(spec.event_shape) < 2:
            raise ValueError(
                f"flow={self.flow!r} couples elements and needs two, {spec.name} has one column; use flow='autoregressive'"
            )

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The flow for data of a spec; `parts` is its `Bijection`."""
        self.check()
        self.check_data(spec)
        kind = FLOWS[self.flow]
        scalar = None if kind.scalar is None else kind.scalar(self)
        bijection = kind.build(self, scalar, spec.event_shape)
        flow = flows.transformed(density.standard_normal(math.prod(spec.event_shape)), bijection)
        objective = objectives.negative_log_likelihood(flow)
        return Model(
            flow,
            flow.init,
            objective,
            objective,
            bijection,
            lambda params, x, key=None: bijection.inverse(params["flow"], x)[0],
            lambda params, z: bijection.forward(params["flow"], z)[0],
            adapt=lambda params, x: flows.data_dependent_init(params, bijection, x),
        )
