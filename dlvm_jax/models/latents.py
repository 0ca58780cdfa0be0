"""The values of all latent variables of a hierarchical VAE, and the same as vectors."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Latents", "flatten", "unflatten"]


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
