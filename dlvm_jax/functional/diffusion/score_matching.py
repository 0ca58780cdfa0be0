r"""Score matching without the true score: denoising, implicit and sliced.

A score is a function [*batch, *event] -> the same shape that treats the batch row by row.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_float, sum_event
from dlvm_jax.functional.types import Array, Numeric

__all__ = [
    "denoising_score_matching",
    "exact_divergence",
    "hutchinson_divergence",
    "implicit_score_matching",
    "sliced_score_matching",
]


_DIRECTIONS = 128  # at once, also where each example is by itself under vmap


def exact_divergence(
    function: Callable[[Array], Array], x: Array, event_ndim: int = 1
) -> tuple[Array, Array]:
    r"""Value and divergence of a vector field, one directional derivative for each dimension.

    $\nabla\cdot f(x) = \sum_{i=1}^D\partial f_i/\partial x_i$

    Shapes: `function` [*batch, *event] -> same, `x` [*batch, *event] -> (f(x), [*batch]).  Source: definition.

    >>> exact_divergence(lambda x: x**2, jnp.array([1.0, 3.0]))[1].tolist()
    8.0
    """
    x = as_float(x)
    event = x.shape[x.ndim - event_ndim :]
    value, push = jax.linearize(function, x)
    basis = jnp.eye(math.prod(event), dtype=x.dtype).reshape(-1, *event)

    def entry(direction):
        return sum_event(push(jnp.broadcast_to(direction, x.shape)) * direction, event_ndim)

    block = max(1, min(_DIRECTIONS, 2**24 // max(1, x.size)))
    if len(basis) <= block:
        return value, jax.vmap(entry)(basis).sum(0)
    # each direction takes the memory of x and of all layers between, also for the gradient
    return value, jax.lax.map(jax.checkpoint(entry), basis, batch_size=block).sum(0)


def hutchinson_divergence(
    function: Callable[[Array], Array], x: Array, probe: Array, event_ndim: int = 1
) -> tuple[Array, Array]:
    r"""Value and estimated divergence of a vector field, from one directional derivative.

    $\widehat{\nabla\cdot f}(x) = v^\top\frac{\partial f}{\partial x}v,\ \mathbb E[vv^\top] = I$

    With S the symmetric part of the Jacobian its variance is $2\sum_{i\ne j}S_{ij}^2$ for Rademacher probes
    (`jax.random.rademacher`; exact for a diagonal Jacobian) and $2\|S\|_F^2$ for Gaussian ones.
    Shapes: `function` [*batch, *event] -> same, `x`, `probe` [*batch, *event] -> (f(x), [*batch]).  Raises ValueError for a probe
    of another shape.
    Source: Hutchinson 1990; Grathwohl et al. 2019, eq. 7.

    >>> hutchinson_divergence(lambda x: x**2, jnp.array([1.0, 3.0]), jnp.array([1.0, -1.0]))[1].tolist()
    8.0
    """
    x = as_float(x)
    if jnp.shape(probe) != x.shape:
        raise ValueError(f"a probe has the shape of x {x.shape}, got {jnp.shape(probe)}")
    value, push = jax.jvp(function, (x,), (jnp.asarray(probe, x.dtype),))
    return value, sum_event(push * probe, event_ndim)


def denoising_score_matching(
    score: Callable[[Array], Array], x: Array, eps: Array, std: Numeric, event_ndim: int = 1
) -> Array:
    r"""Denoising score matching: regression on the score of the noise kernel.

    $\tfrac12\big\|s(x+\sigma\epsilon)+\epsilon/\sigma\big\|^2$

    The minimiser is the score of the *noisy* density.  Along a whole process: `objectives.denoising_loss` on "score".
    Shapes: `x`, `eps` [*batch, *event], `std` broadcasts -> [*batch].  Source: Vincent 2011, eq. 9 and 10.

    >>> float(denoising_score_matching(lambda x: -x / 5, jnp.array([1.0]), jnp.array([2.0]), 2.0))
    0.0
    """
    x, eps = as_float(x), as_float(eps)
    return 0.5 * sum_event(jnp.square(score(x + std * eps) + eps / std), event_ndim)


def implicit_score_matching(score: Callable[[Array], Array], x: Array, event_ndim: int = 1) -> Array:
    r"""Implicit score matching: the squared error to the true score up to a constant, by integration by parts.

    $\tfrac12\|s(x)\|^2 + \nabla\cdot s(x)$

    At noisy points it differs from `denoising_score_matching` by a constant.
    Shapes: `x` [*batch, *event] -> [*batch].  Source: Hyvarinen 2005, eq. 4.

    >>> float(implicit_score_matching(lambda x: -x, jnp.zeros(2)))
    -2.0
    """
    value, trace = exact_divergence(score, x, event_ndim)
    return 0.5 * sum_event(jnp.square(value), event_ndim) + trace


def sliced_score_matching(
    score: Callable[[Array], Array], x: Array, probe: Array, event_ndim: int = 1
) -> Array:
    r"""Implicit score matching with an estimated divergence, for many dimensions (the variant of reduced variance).

    $\tfrac12\|s(x)\|^2 + v^\top\frac{\partial s}{\partial x}v$

    Shapes: `x`, `probe` [*batch, *event] -> [*batch].  Source: Song, Garg, Shi, Ermon 2019.

    >>> float(sliced_score_matching(lambda x: -x, jnp.zeros(2), jnp.ones(2)))
    -2.0
    """
    value, trace = hutchinson_divergence(score, x, probe, event_ndim)
    return 0.5 * sum_event(jnp.square(value), event_ndim) + trace
