"""Autoregressive models of data: MADE and a transformer for any shape, PixelCNN for images."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dlvm_jax import nets
from dlvm_jax.data import Data, Spec
from dlvm_jax.models import density, objectives
from dlvm_jax.models.autoregressive import autoregressive, ensemble, one_of, stepper_from_linen
from dlvm_jax.models.density import Density, Net, OutputDistribution
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.recipes.conditions import CONDITIONS, Condition, condition_of, say_which_labels_are_missing
from dlvm_jax.recipes.likelihoods import check_likelihood, kind_of, transform_of
from dlvm_jax.recipes.vae_parts import LIKELIHOODS
from dlvm_jax.settings import choice, setting

__all__ = ["NETS", "Autoregressive"]

OWN_SCALES = {name: entry for name, entry in LIKELIHOODS.items() if not entry.shared}


class NetKind(NamedTuple):
    """A causal network by name.

    build:  (recipe, spec, condition, distribution) -> the densities, of one set of parameters
    images: whether it is of images alone;  uses: settings that belong to it
    """

    build: Callable[["Autoregressive", Spec, Condition, OutputDistribution], list[Density]]
    help: str
    images: bool = False
    uses: tuple[str, ...] = ()


def _inputs(event: tuple[int, ...], condition: Condition) -> tuple[Any, ...]:
    return (1, *event) if condition.context is None else ((1, *event), (1, *condition.context))


def _made(recipe, spec, condition, distribution):
    event, size = condition.event, math.prod(condition.event)
    rng = np.random.RandomState(0)
    orders = [np.arange(size), *(rng.permutation(size) for _ in range(recipe.orders - 1))]

    def member(order):
        order = tuple(order.tolist())
        net = density.from_linen(
            nets.MADE(recipe.hidden, size, distribution.width, order=order), _inputs((size,), condition)
        )

        def apply(params, inputs):
            x, *context = inputs if isinstance(inputs, tuple) else (inputs,)
            x = x.reshape(*x.shape[: x.ndim - len(event)], size)
            raw = net.apply(params, (x, *context) if context else x)
            return raw.reshape(*x.shape[:-1], *event, distribution.width)

        return autoregressive(networks.scaled(Net(net.init, apply), spec), distribution, event, order=order)

    return [member(order) for order in orders]


def _pixelcnn(recipe, spec, condition, distribution):
    module = nets.GatedPixelCNN(
        recipe.width,
        recipe.depth,
        recipe.kernel,
        (condition.event[-1], distribution.width),
        networks.top(spec),
    )
    return [_stepped(module, condition, distribution, group=condition.event[-1])]


def _transformer(recipe, spec, condition, distribution):
    levels = spec.levels if spec.discrete else None
    module = nets.CausalTransformer(
        condition.event, recipe.width, recipe.depth, recipe.heads, distribution.width, levels
    )
    return [_stepped(module, condition, distribution)]


def _stepped(module, condition, distribution, **options):
    net, stepper = density.from_linen(module, _inputs(condition.event, condition)), stepper_from_linen(module)
    return autoregressive(net, distribution, condition.event, stepper=stepper, **options)


NETS = {
    "made": NetKind(_made, "masked dense layers (Germain et al. 2015)", uses=("hidden", "orders")),
    "pixelcnn": NetKind(
        _pixelcnn,
        "gated causal convolutions (van den Oord et al. 2016)",
        True,
        ("width", "depth", "kernel"),
    ),
    "transformer": NetKind(
        _transformer, "causal attention (Vaswani et al. 2017)", uses=("width", "depth", "heads")
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoregressive(Recipe):
    """An autoregressive model, trained by maximum likelihood: each element, or pixel, given those before it."""

    net: str = choice("made", NETS, "network")
    hidden: tuple[int, ...] = setting((500,), "widths of the hidden layers of a MADE", at_least=1)
    orders: int = setting(1, "orders of a MADE: as the elements stand, and random ones", at_least=1)
    width: int = setting(32, "channels of a PixelCNN, width of a transformer", at_least=1)
    depth: int = setting(7, "layers of a PixelCNN or transformer", at_least=1)
    kernel: int = setting(5, "side of a PixelCNN's convolutions, odd", at_least=1)
    heads: int = setting(4, "heads of a transformer's attention; they share its width", at_least=1)
    likelihood: str | None = choice(
        None, OWN_SCALES, "law of an element given those before it, by default what suits the data"
    )
    std: float = setting(1.0, "standard deviation of a fixed-normal likelihood")
    condition: str | None = choice(None, CONDITIONS, "model the (rest of the) example given")

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 3000,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warm_up": 0.02,
        "ema": 0.99,
        "clip": 100.0,
    }

    @property
    def transform(self) -> str | None:
        """What becomes of the data: integer levels or dequantised ones where the likelihood says so."""
        return transform_of(self.likelihood)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that do not go together."""
        super().check()
        if self.kernel % 2 == 0:
            raise ValueError(
                f"kernel is the side of a convolution with a middle, so it is odd, got {self.kernel}"
            )
        if self.net == "transformer" and self.width % self.heads:
            raise ValueError(f"heads share the width evenly, got width={self.width} and heads={self.heads}")
        if NETS[self.net].images and self.condition not in (None, "label"):
            raise ValueError(
                f"net={self.net!r} is of whole images, condition={self.condition!r} is not; use net='made'"
            )

    def likelihood_of(self, spec: Spec) -> str:
        """The name of the law of an element for data of a spec: of the levels of images, pixels with all their channels."""
        usual = {"bits": "bernoulli", "reals": "normal"}
        levels = "pixel-mixture" if NETS[self.net].images else "logistic-mixture"
        return self.likelihood or usual.get(kind_of(spec), levels)

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        if NETS[self.net].images and len(spec.event_shape) != 3:
            raise ValueError(
                f"net={self.net!r} needs images [H, W, C], the examples have shape {spec.event_shape}; use net='made'"
            )
        name = self.likelihood_of(spec)
        check_likelihood(name, spec)
        if name == "pixel-mixture" and not NETS[self.net].images:
            raise ValueError(
                f"net={self.net!r} takes element by element, likelihood='pixel-mixture' whole pixels; use 'logistic-mixture'"
            )
        condition_of(self.condition, spec)
        dataclasses.replace(self, likelihood=name).check()

    def constants(self, data: Data, seed: int) -> Constants:
        """None; labels that no example has are said."""
        if self.condition == "label":
            say_which_labels_are_missing(data)
        return {}

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec; `parts` are the densities of its orders."""
        self.check()
        self.check_data(spec)
        condition = condition_of(self.condition, spec)
        distribution = LIKELIHOODS[self.likelihood_of(spec)].build(self, spec)
        members = NETS[self.net].build(self, spec, condition, distribution)
        whole = members[0] if len(members) == 1 else ensemble(members)
        objective = validation = objectives.negative_log_likelihood(whole)
        if len(members) > 1:
            objective = one_of([objectives.negative_log_likelihood(member) for member in members])
        return Model(
            whole,
            whole.init,
            objective,
            validation,
            members,
            split=condition.split,
            merge=condition.merge,
            labels=condition.labels,
            part=condition.part,
        )
