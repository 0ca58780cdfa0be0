"""Latent units in use: the means of a posterior, and how many of them vary over the data."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dlvm_jax.evaluate.examples import as_precise_as, check_examples
from dlvm_jax.models.density import Density
from dlvm_jax.models.spaces import REALS
from dlvm_jax.models.top_down import TopDown

__all__ = ["ACTIVE", "active_units", "posterior_means", "units_of_layers"]

ACTIVE = 0.01  # variance over the data above which a unit is active


def _blocks(function: Callable | None, params: Any, x: Any, batch_size: int) -> Iterator[np.ndarray]:
    """The function of so many examples at a time, [n, M]; x as it takes it, or (x, context)."""
    if function is None:
        raise ValueError("the mean of this posterior is not known in closed form")
    check_examples(REALS, x)
    if not len(jax.tree.leaves(x)[0]):
        raise ValueError("the units of a posterior are counted over examples, got none")
    run = jax.jit(function)
    for start in range(0, len(jax.tree.leaves(x)[0]), batch_size):
        rows = jax.tree.map(lambda a, i=start: a[i : i + batch_size], x)
        yield np.asarray(run(params, as_precise_as(params, rows)))


def posterior_means(posterior: Density, params: Any, x: Any, batch_size: int = 1000) -> np.ndarray:
    """Means E_q[z | x] of a posterior density, [N, M]; x as it sees it, (x, context) for a conditional VAE."""
    return np.concatenate(list(_blocks(posterior.mean, params, x, batch_size)))


def _variance(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Variance [M] of rows that come in blocks [n, M] and are not kept."""
    count, centre, total, square = 0, 0.0, 0.0, 0.0
    for block in blocks:
        rows = np.asarray(block, np.float64)
        centre = centre if count else rows.mean(0)  # sums about a mean lose no digits
        count += len(rows)
        total, square = total + (rows - centre).sum(0), square + ((rows - centre) ** 2).sum(0)
    return np.asarray(square / count - (total / count) ** 2)


def units_of_layers(
    posterior: Density | TopDown, params: Any, x: Any, batch_size: int = 1000
) -> tuple[int, ...]:
    r"""Active units of each layer of a hierarchical VAE, from the top; of a VAE's posterior, the one layer.

    $\mathrm{Var}_x\frac{\mathbb E_q[z_{l,i}|x]-\mu_{l,i}}{\sigma_{l,i}} > 0.01$,
    $\mu,\sigma$ of $p(z_l|z_{<l})$ at the posterior's means of the layers above; at the top $\mu=0,\sigma=1$

    A unit is active where the data move its posterior's mean by more than the layers above explain, in units of what the prior
    leaves open.  A layer without one is dead, though its rate may not be zero.
    Source, of one layer: Burda, Grosse, Salakhutdinov 2016, section 5.3; here over all of x.

    posterior, params: of a VAE's posterior, or of a hierarchical VAE
    x: [N, *event], or (x, context);  batch_size: examples computed at a time
    Raises ValueError where the posterior's means are not known.
    """
    layered = isinstance(posterior, TopDown)
    function = posterior.shifts if layered else posterior.mean
    active = _variance(_blocks(function, params, x, batch_size)) > ACTIVE
    ends = np.cumsum(posterior.sizes)[:-1] if layered else []
    return tuple(int(layer.sum()) for layer in np.split(active, ends))


def active_units(posterior: Density | TopDown, params: Any, x: Any) -> int:
    """Number of latent units in use, those of all layers (`units_of_layers`)."""
    return sum(units_of_layers(posterior, params, x))
