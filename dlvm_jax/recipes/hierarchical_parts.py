"""The parts of a hierarchical VAE by name, and how networks become them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from dlvm_jax.models import top_down
from dlvm_jax.models.density import Density, Net
from dlvm_jax.nets import cells

__all__ = ["CELLS", "INFERENCE", "bounded", "given_x", "group_of"]

INFERENCE = {
    "bidirectional": "q(z_l | z_<l, x) looks at the state and at the features",
    "precision-weighted": "the prior times a Gaussian of the features, as the Ladder VAE",
    "bottom-up": "q(z_L | x), and each layer from the one below",
}


class Cell(NamedTuple):
    """The networks of the groups, by name.

    group:     (recipe, stage, depth) -> its module
    images:    whether it is of images
    inference: the kinds that it has
    """

    group: Callable
    help: str
    images: bool
    inference: tuple[str, ...] = ("bidirectional",)


def _dense(recipe, stage, depth):
    precision = recipe.inference == "precision-weighted"
    sizes = recipe.latents[stage], recipe.widths[stage], recipe.hidden[stage]
    return cells.DenseGroup(*sizes, depth, precision, jnp.dtype(recipe.dtype))


def _images(module):
    def build(recipe, stage, depth):
        sizes = recipe.latents[stage], recipe.widths[stage], recipe.hidden[stage]
        return module(*sizes, depth, jnp.dtype(recipe.dtype))

    return build


CELLS = {
    "dense": Cell(_dense, "residual dense layers", False, tuple(INFERENCE)),
    "vdvae": Cell(_images(cells.BottleneckGroup), "bottleneck blocks of Child 2021", True),
    "nvae": Cell(_images(cells.ResidualGroup), "residual cells of Vahdat & Kautz 2020", True),
}


def bounded(net: Net) -> Net:
    """With log-standard deviations within bounds: an outlier must not grow from layer to layer."""
    return Net(net.init, lambda params, x: jnp.stack(cells.law(net.apply(params, x)), axis=-1))


def group_of(module: Any, latent: tuple[int, ...], state: tuple[int, ...]) -> top_down.Group:
    """A Flax module with the three methods of a group; features are as wide as the state."""
    return top_down.Group(
        latent,
        lambda key: module.init(key, jnp.zeros((1, *state)), jnp.zeros((1, *state))),
        lambda params, h: module.apply(params, h, method="prior"),
        lambda params, h, features, p: module.apply(params, h, features, p, method="posterior"),
        lambda params, h, z: module.apply(params, h, z, method="merge"),
    )


def given_x(encoder: Net | None, posterior: Any) -> Any:
    """q(top latent | x), for a prior that uses it; its parameters are those of the encoder and of the posterior."""
    if encoder is None:
        return None
    features = lambda params, x: encoder.apply(params["encoder"], x)[0]

    def log_prob(params, key, z, x=None):
        return posterior.log_prob(params["posterior"], key, z, features(params, x))

    def sample(params, key, x=None, shape=()):
        return posterior.sample(params["posterior"], key, features(params, x), shape)

    def normal(params, x=None):
        return posterior.normal(params["posterior"], features(params, x))

    return Density(posterior.init, sample, log_prob, "exact", normal=normal)
