"""Simulation-based inference: a posterior over a simulator's parameters from simulations alone."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data, Spec, simulators
from dlvm_jax.exact.simulators import Simulator
from dlvm_jax.models import density, flows, objectives, posterior, scalars
from dlvm_jax.models.flows import Bijection, Scalar
from dlvm_jax.models.posterior import Resampled
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP, SMALL
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.recipes.flow import Velocity
from dlvm_jax.settings import choice, setting

__all__ = ["FLOWS", "METHODS", "Posterior", "PosteriorParts"]

SPLINE_BOUND = 5.0
PROPOSALS = 50_000  # of the prior, which a learned likelihood or ratio weighs


class PosteriorParts(NamedTuple):
    """What a trained posterior does.

    simulator: the task
    sample:        (params, key, x [C], count) -> `Resampled`: draws [count, D]; of an exact density all are effective
    log_posterior: (params, theta, x) -> [*batch], unnormalised where a likelihood or ratio is learned
    """

    simulator: Simulator
    sample: Callable
    log_posterior: Callable


class FlowKind(NamedTuple):
    """A conditional flow by name: `build(recipe, scalar, dim, context)`, and the `Scalar` of each coordinate."""

    build: Callable[["Posterior", Scalar, int, int], Bijection]
    help: str
    scalar: Callable[["Posterior"], Scalar]
    uses: tuple[str, ...] = ()


def _affine(recipe: "Posterior") -> Scalar:
    return scalars.affine()


def _spline(recipe: "Posterior") -> Scalar:
    return scalars.rational_quadratic(recipe.bins, SPLINE_BOUND)


def _coupling(recipe, scalar, dim, context):
    size = dim // 2
    net = MLP(recipe.layer_widths, (dim - size, scalar.width), head_init=SMALL)
    net = density.from_linen(net, ((1, size), (1, context)))
    return flows.stack(flows.coupling(net, scalar, size), dim, recipe.depth, unroll=recipe.depth)


def _autoregressive(recipe, scalar, dim, context):
    made = density.from_linen(MADE(recipe.layer_widths, dim, scalar.width), ((1, dim), (1, context)))
    return flows.stack(flows.masked_autoregressive(made, scalar), dim, recipe.depth)


FLOWS = {
    "spline-coupling": FlowKind(_coupling, "couplings by rational-quadratic splines", _spline, ("bins",)),
    "coupling": FlowKind(_coupling, "affine couplings", _affine),
    "spline-autoregressive": FlowKind(
        _autoregressive, "masked autoregressive, by splines", _spline, ("bins",)
    ),
    "autoregressive": FlowKind(_autoregressive, "masked autoregressive, affine", _affine),
}


class Method(NamedTuple):
    """A method by name: `build(recipe, simulator, constants) -> Model`; uses: settings that belong to it."""

    build: Callable[["Posterior", Simulator, Mapping[str, np.ndarray]], Model]
    help: str
    uses: tuple[str, ...] = ()


def _cut(dim: int) -> Callable:
    return lambda rows: (rows[..., :dim], rows[..., dim:])


def _join(*parts: jax.Array) -> jax.Array:
    batch = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in parts], -1)


def _direct(simulator, constants, flow, objective_of):
    """A model of q(theta | x) itself."""
    onto = posterior.support(simulator.low, simulator.high)
    moments = constants["unbounded"], constants["x"]
    whole = posterior.neural_posterior(flow, onto, moments)
    objective = objective_of(whole, onto, moments)

    def sample(params, key, x, count):
        draws, _ = whole.sample(params, key, x[None], (count,))
        return Resampled(draws[:, 0], jnp.asarray(float(count)))

    parts = PosteriorParts(simulator, sample, lambda params, theta, x: whole.log_prob(params, None, theta, x))
    split = _cut(len(simulator.low))
    return Model(whole, whole.init, objective, objective, parts, split=split, merge=_join, part=True)


def _weighed(simulator, log_ratio):
    """The parts of a model of log p(x | theta) up to any function of x: draws of the prior are weighed by it."""

    def sample(params, key, x, count):
        key_prior, key_choice = jax.random.split(key)
        theta = simulator.prior_sample(key_prior, (PROPOSALS,))
        log_weights = log_ratio(params, theta, jnp.broadcast_to(x, (PROPOSALS, *x.shape)))
        return posterior.resampled(key_choice, theta, log_weights, count)

    def log_posterior(params, theta, x):
        return simulator.prior_log_prob(theta) + log_ratio(params, theta, x)

    return PosteriorParts(simulator, sample, log_posterior)


def _npe(recipe, simulator, constants):
    flow = recipe.bijection(len(simulator.low), constants["x"].shape[-1])
    return _direct(
        simulator,
        constants,
        flow,
        lambda whole, onto, moments: objectives.negative_log_likelihood(whole),
    )


def _fmpe(recipe, simulator, constants):
    dim, features = len(simulator.low), constants["x"].shape[-1]
    velocity = density.from_linen(Velocity(recipe.layer_widths), (1, dim), (1,), (1, features))
    return _direct(
        simulator,
        constants,
        flows.continuous(velocity),
        lambda whole, onto, moments: posterior.flow_matching(velocity, onto, moments),
    )


def _nle(recipe, simulator, constants):
    dim, features = len(simulator.low), constants["x"].shape[-1]
    reals = posterior.support(np.full(features, -np.inf), np.full(features, np.inf))
    moments = constants["x"], constants["theta"]
    whole = posterior.neural_posterior(recipe.bijection(features, dim), reals, moments)
    objective = objectives.negative_log_likelihood(whole)
    parts = _weighed(simulator, lambda params, theta, x: whole.log_prob(params, None, x, theta))
    cut = _cut(dim)
    return Model(
        whole,
        whole.init,
        objective,
        objective,
        parts,
        split=lambda rows: cut(rows)[::-1],
        merge=lambda x, theta: _join(theta, x),
        part=True,
    )


def _nre(recipe, simulator, constants):
    dim, features = len(simulator.low), constants["x"].shape[-1]
    net = MLP(recipe.layer_widths, (), connect="residual")
    net = density.from_linen(net, ((1, dim), (1, features)))
    (mean, std), (x_mean, x_std) = constants["theta"], constants["x"]

    def log_ratio(params, theta, x):
        return net.apply(params, ((theta - mean) / std, (x - x_mean) / x_std))

    objective = posterior.contrastive(log_ratio, recipe.atoms)
    parts = _weighed(simulator, log_ratio)
    return Model(None, net.init, objective, objective, parts, split=_cut(dim), merge=_join, part=True)


METHODS = {
    "npe": Method(_npe, "neural posterior estimation: a flow of the parameters given x", ("flow", "depth")),
    "fmpe": Method(_fmpe, "flow matching posterior estimation: an ODE of the parameters given x"),
    "nle": Method(_nle, "neural likelihood estimation: a flow of x given the parameters", ("flow", "depth")),
    "nre": Method(_nre, "neural ratio estimation: a classifier of joint and independent pairs", ("atoms",)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior(Recipe):
    """A posterior, likelihood or ratio of a simulator, from rows of parameters and data (`data.simulators.dataset`)."""

    task: str = setting(
        "two_moons",
        f"simulator: {', '.join(simulators.TASKS)}; or MODULE:FUNCTION of your own, which returns a Simulator",
    )
    method: str = choice("npe", METHODS, "what is learned")
    flow: str = choice("spline-coupling", FLOWS, "flow of npe and nle")
    depth: int = setting(5, "layers of the flow", at_least=1)
    width: int = setting(64, "width of the hidden layers of the networks", at_least=1)
    hidden: int = setting(2, "hidden layers", at_least=1)
    bins: int = setting(8, "bins of a spline", at_least=1)
    atoms: int = setting(10, "parameters that are contrasted for each x", at_least=2)

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 4000,
        "batch_size": 200,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warm_up": 0.02,
        "clip": 5.0,
        "ema": 0.99,
        "evaluations": 20,
    }
    any_scale: ClassVar[bool] = True

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers of a network."""
        return (self.width,) * self.hidden

    def bijection(self, dim: int, context: int) -> Bijection:
        """The flow of `dim` coordinates with a context of so many numbers.  Raises ValueError where it cannot be."""
        if dim < 2 and "coupling" in self.flow:
            raise ValueError(
                f"flow={self.flow!r} couples numbers and needs two, there is one; use flow='spline-autoregressive'"
            )
        kind = FLOWS[self.flow]
        return kind.build(self, kind.scalar(self), dim, context)

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for data that are not rows of this task's parameters and data."""
        dim = len(simulators.simulator(self.task).low)
        if len(spec.event_shape) != 1 or spec.event_shape[0] <= dim or spec.discrete:
            raise ValueError(
                f"task={self.task!r} needs rows of {dim} real parameters and then data, {spec.name} has examples of shape "
                f"{spec.event_shape}; make them by data.simulators.dataset"
            )

    def constants(self, data: Data, seed: int) -> Constants:
        """Mean and standard deviation, [2, n] each, of the parameters, of these brought to R^D, and of x."""
        simulator = simulators.simulator(self.task)
        theta, x = _cut(len(simulator.low))(np.asarray(data.train))
        onto = posterior.support(simulator.low, simulator.high)
        unbounded = np.asarray(onto.inverse({}, theta)[0])
        return {"theta": _moments(theta), "unbounded": _moments(unbounded), "x": _moments(x)}

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec; `parts` are its `PosteriorParts`."""
        self.check()
        self.check_data(spec)
        return METHODS[self.method].build(self, simulators.simulator(self.task), constants)


def _moments(values: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of each column, 1 for a constant one."""
    std = values.std(0, dtype=np.float64)
    return np.stack([values.mean(0, dtype=np.float64), np.where(std > 0, std, 1)]).astype(np.float32)
