"""What a hierarchical VAE has from the top down: groups of latents in stages, and the values of all latent variables."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.models.density import Net

__all__ = ["Group", "Latents", "Stage", "features_of", "flatten", "unflatten"]


class Group(NamedTuple):
    """One latent group, pure functions of its own parameters; all arrays have one batch axis in front.

    latent:    shape of z_l
    init:      (key) -> params
    prior:     (params, h) -> ((mean, log_std) of p(z_l | h), the state with what the prior's network adds to it)
    posterior: (params, h, features, law of the prior) -> (mean, log_std) of q(z_l | h, x); h as the prior was given it
    merge:     (params, state after the prior, z_l) -> the state for the next group
    """

    latent: tuple[int, ...]
    init: Callable
    prior: Callable
    posterior: Callable
    merge: Callable


class Stage(NamedTuple):
    """Groups of one resolution: `count` of the same kind, each with parameters of its own, run by one scan.

    enter: the network that brings the state, or (state, context), to this stage; that of the first is given the top latent
    remat: compute the inside of a group anew in the backward pass, instead of keeping it
    """

    group: Group
    count: int
    enter: Net
    remat: bool = False


def features_of(shared: Sequence[Any], own: Sequence[Any] | None = None) -> tuple[tuple[Any, Any], ...]:
    """What a bottom-up network gives each stage: features that all of its groups share, and those of each group [count, ...]."""
    own = [None] * len(shared) if own is None else own
    return tuple(zip(shared, own, strict=True))


class Latents(NamedTuple):
    """The values of all latent variables, or the noise that they are made of.

    top:    [*batch, M]
    groups: for each stage an array [count, *batch, *latent]
    """

    top: jax.Array
    groups: tuple[jax.Array, ...]


def flatten(latents: Latents, shapes: Sequence[tuple[int, ...]]) -> jax.Array:
    """Vectors [*batch, numbers], from the top layer down; shapes: (count, *latent) of each stage."""
    batch = latents.top.shape[:-1]
    parts = (
        jnp.moveaxis(z, 0, len(batch)).reshape(*batch, -1)
        for z, _ in zip(latents.groups, shapes, strict=True)
    )
    return jnp.concatenate([latents.top, *parts], axis=-1)


def unflatten(z: jax.Array, dim: int, shapes: Sequence[tuple[int, ...]]) -> Latents:
    """The latents of vectors [*batch, numbers]; dim: numbers of the top layer.  Raises ValueError for another length."""
    sizes = [dim, *map(math.prod, shapes)]
    if z.shape[-1] != sum(sizes):
        raise ValueError(
            f"the codes of this model are vectors of {sum(sizes)} numbers, got an array of shape {z.shape}"
        )
    top, *parts = jnp.split(z, np.cumsum(sizes)[:-1].tolist(), axis=-1)
    groups = tuple(
        jnp.moveaxis(part.reshape(*z.shape[:-1], *shape), z.ndim - 1, 0)
        for part, shape in zip(parts, shapes, strict=True)
    )
    return Latents(top, groups)
