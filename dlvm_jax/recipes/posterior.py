"""Simulation-based inference: a posterior over a simulator's parameters from simulations alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from dlvm_jax.data import Data, Spec, simulators
from dlvm_jax.exact.simulators import Simulator
from dlvm_jax.models import posterior
from dlvm_jax.models.density import Net
from dlvm_jax.models.flows import Bijection
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.recipes.posterior_methods import EMBEDDINGS, FLOWS, METHODS, PosteriorParts, cut, ensemble
from dlvm_jax.settings import choice, setting

__all__ = ["EMBEDDINGS", "FLOWS", "METHODS", "Posterior", "PosteriorParts", "ensemble"]

WHOLE = 2**20  # numbers beyond are whole by rounding


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
    repeats: int = setting(1, "independent observations of the same parameters", at_least=1)
    embedding: str = choice(
        "none", EMBEDDINGS, "network that summarises x; of several observations their summaries' mean"
    )
    image: tuple[int, int] | None = setting(
        None, "height and width of x for convolutions; default: the simulator's, else a series", at_least=1
    )

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

    @property
    def simulator(self) -> Simulator:
        """The simulator of the task, of several observations if there are."""
        return simulators.simulator(self.task, self.repeats)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.repeats > 1 and self.embedding == "none" and METHODS[self.method].direct:
            raise ValueError(
                f"method={self.method!r} sees repeats={self.repeats} observations by the mean of their summaries; "
                "add embedding='mlp'"
            )

    def embedded_dim(self, dim: int) -> int:
        """Numbers in the summary of x [dim]."""
        return dim if self.embedding == "none" else self.width

    def summary_dim(self, constants: Mapping[str, np.ndarray]) -> int:
        """Numbers in the summary of all observations."""
        return self.embedded_dim(constants["x"].shape[-1])

    def summary(self, constants: Mapping[str, np.ndarray]) -> Net:
        """The network of that summary."""
        dim = constants["x"].shape[-1]
        net = EMBEDDINGS[self.embedding].build(self, dim)
        return net if self.repeats == 1 else posterior.averaged(net, dim)

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
        dim, shape = len(self.simulator.low), spec.event_shape
        if len(shape) != 1 or shape[0] <= dim or (shape[0] - dim) % self.repeats or spec.discrete:
            raise ValueError(
                f"task={self.task!r} needs rows of {dim} real parameters and then {self.repeats} observation(s), {spec.name} has "
                f"examples of shape {shape}; make them by data.simulators.dataset"
            )

    def constants(self, data: Data, seed: int) -> Constants:
        """Mean and standard deviation, [2, n] each, of the parameters, of these brought to R^D, of one x; what of x is whole."""
        simulator = self.simulator
        theta, x = cut(len(simulator.low))(np.asarray(data.train))
        onto = posterior.support(simulator.low, simulator.high)
        unbounded = np.asarray(onto.inverse({}, theta)[0])
        x = x.reshape(self.repeats * len(x), -1)
        moments = {"theta": _moments(theta), "unbounded": _moments(unbounded), "x": _moments(x)}
        return moments | {"whole": ((x == np.round(x)) & (abs(x) < WHOLE)).all(0)}

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec; `parts` are its `PosteriorParts`."""
        self.check()
        self.check_data(spec)
        return METHODS[self.method].build(self, self.simulator, constants)


def _moments(values: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of each column, 1 for a constant one."""
    std = values.std(0, dtype=np.float64)
    return np.stack([values.mean(0, dtype=np.float64), np.where(std > 0, std, 1)]).astype(np.float32)
