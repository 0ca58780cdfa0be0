"""Toy distributions in the plane, in pure JAX; two of them with their exact log-density and entropy.

With an exact entropy the gap of a fitted model is a number instead of an impression: the mean of -log p_model(x) over
samples minus the entropy is KL(data || model).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data.dataset import Data, of_vectors
from dlvm_jax.data.protocol import Protocol
from dlvm_jax.settings import pick

__all__ = [
    "TOYS",
    "Toy",
    "checkerboard",
    "checkerboard_log_prob",
    "dataset",
    "eight_gaussians",
    "eight_gaussians_log_prob",
    "two_moons",
]

RADIUS, STD = 2 * math.sqrt(2), 1 / math.sqrt(8)  # of the ring and of each Gaussian


def _centres():
    angles = jnp.arange(8) * (jnp.pi / 4)
    return RADIUS * jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)


def eight_gaussians(key: jax.Array, n: int) -> jax.Array:
    """Eight equally likely round Gaussians, standard deviation 1/sqrt(8), on a ring of radius sqrt(8).

    Shapes: [n, 2] float32.  Source: Grathwohl et al. 2019, FFJORD, section 4.1 (the same scale).
    """
    which, noise = jax.random.split(key)
    chosen = jax.random.randint(which, (n,), 0, 8)
    return _centres()[chosen] + STD * jax.random.normal(noise, (n, 2))


def eight_gaussians_log_prob(x: jax.Array) -> jax.Array:
    """Exact log-density of `eight_gaussians` in nats.  Shapes: x [..., 2] -> [...]."""
    squares = ((x[..., None, :] - _centres()) ** 2).sum(-1)
    one = -0.5 * squares / STD**2 - math.log(2 * math.pi * STD**2)
    return jax.nn.logsumexp(one, axis=-1) - math.log(8)


def checkerboard(key: jax.Array, n: int) -> jax.Array:
    """Uniform on eight of the sixteen squares of side 2 that tile [-4, 4) x [-4, 4).

    Shapes: [n, 2] float32.  Source: Grathwohl et al. 2019, FFJORD, section 4.1 (the same scale).
    """
    cell, inside = jax.random.split(key)
    chosen = jax.random.randint(cell, (n,), 0, 8)
    column = chosen // 2
    row = 2 * (chosen % 2) + column % 2  # the squares whose column and row are both even or both odd
    corner = jnp.stack([column, row], -1) * 2.0 - 4.0
    # a coarse grid of midpoints keeps every point strictly inside its square after rounding to float32
    steps = jax.random.randint(inside, (n, 2), 0, 2**16)
    return corner + 2 * (steps + 0.5) / 2**16


def checkerboard_log_prob(x: jax.Array) -> jax.Array:
    """Exact log-density of `checkerboard` in nats: -log 32 on the board, -inf beside it.  Shapes: x [..., 2] -> [...]."""
    cell = jnp.floor((x + 4) / 2)
    on = ((cell >= 0) & (cell <= 3)).all(-1) & (cell.sum(-1) % 2 == 0)
    return jnp.where(on, -math.log(32), -jnp.inf)


def two_moons(key: jax.Array, n: int, std: float = 0.1) -> jax.Array:
    """Two interleaved half circles of radius 1 with Gaussian noise of standard deviation `std`.

    The upper one is centred at (0, 0), the lower one at (1, 1/2); each point picks one with probability 1/2.  The density
    has no closed form.  Shapes: [n, 2] float32.  Source: Pedregosa et al. 2011, scikit-learn's `make_moons`.
    """
    which, where, noise = jax.random.split(key, 3)
    lower = jax.random.bernoulli(which, 0.5, (n,))
    angle = jnp.pi * jax.random.uniform(where, (n,))
    sign = jnp.where(lower, -1.0, 1.0)
    centre = jnp.where(lower[:, None], jnp.array([1.0, 0.5]), 0.0)
    arc = jnp.stack([sign * jnp.cos(angle), sign * jnp.sin(angle)], -1)
    return centre + arc + std * jax.random.normal(noise, (n, 2))


class Toy(NamedTuple):
    """A distribution in the plane: `sample(key, n) -> [n, 2]`, and where known `log_prob(x)` and the entropy in nats."""

    sample: Callable[[jax.Array, int], jax.Array]
    log_prob: Callable[[jax.Array], jax.Array] | None
    entropy: float | None


TOYS = {
    # log 8 + log(2 pi e STD^2) = 2.837877 for eight disjoint ones, less what their overlap takes (by quadrature)
    "eight_gaussians": Toy(eight_gaussians, eight_gaussians_log_prob, 2.8315783605264833),
    "checkerboard": Toy(checkerboard, checkerboard_log_prob, math.log(32)),
    "two_moons": Toy(two_moons, None, None),
}


def dataset(name: str, sizes: tuple[int, int, int] = (200_000, 2_000, 10_000)) -> Data:
    """A toy distribution as `Data`: sampled points, of each part from a key of its own.

    name: one of `TOYS`;  sizes: points of train, valid and test
    Raises ValueError for an unknown name.
    """
    toy = pick(TOYS, name, "toy distribution")
    splits = [np.asarray(toy.sample(jax.random.key(part), size)) for part, size in enumerate(sizes)]
    text = f"{'/'.join(map(str, sizes))} points sampled in the plane"
    protocol = Protocol("sampled", sizes, "none", 0, text, "this library")
    return of_vectors(name, splits, protocol)
