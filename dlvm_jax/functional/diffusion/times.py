r"""Random times at which a loss is evaluated: each is a function of uniform random numbers, so that all can be stratified.

On several devices fold the device's index into the key: equal draws everywhere would not average out.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.special import ndtri

from dlvm_jax.functional.diffusion.process import Process
from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array, Key, Numeric

__all__ = ["Times", "importance_times", "log_normal_times", "stratified_uniform", "uniform_times"]


class Times(NamedTuple):
    """Times and the weights that make a weighted mean over them the plain mean over all times, both [*batch]."""

    t: Array
    weight: Numeric


def stratified_uniform(key: Key, count: int) -> Array:
    r"""Uniform random numbers that share one draw and cover the interval evenly.

    $u_i = (u_0 + i/B) \bmod 1,\ u_0\sim U(0,1)$

    Each is uniform by itself, so a mean over the batch is unbiased, with far less variance than independent draws.
    Shapes: -> [count].  Source: Kingma, Salimans, Poole, Ho 2021, appendix I.1.

    >>> jnp.sort(stratified_uniform(jax.random.key(0), 4) * 4 // 1).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    shift = jax.random.uniform(key)
    return (shift + jnp.arange(count, dtype=shift.dtype) / count) % 1


def uniform_times(process: Process, uniform: Array) -> Array:
    r"""Times that are uniform over the whole process: its interval, or the steps of its table.

    $t = t_{\min} + (t_{\max}-t_{\min})\,u$, or $t = (\lfloor uT\rfloor+1)/T$

    Shapes: `uniform` in [0, 1) any -> same.  Source: Ho, Jain, Abbeel 2020, algorithm 1.

    >>> from dlvm_jax.functional.diffusion.schedules import from_recursion, linear_betas
    >>> uniform_times(from_recursion(linear_betas(4)), jnp.array([0.0, 0.3, 0.99])).tolist()
    [0.25, 0.5, 1.0]
    """
    uniform = as_wide(uniform)
    if process.steps is not None:  # a product may round up to T itself
        return (jnp.minimum(jnp.floor(uniform * process.steps), process.steps - 1) + 1) / process.steps
    return process.t_min + (process.t_max - process.t_min) * uniform


def log_normal_times(uniform: Array, mean: float = -1.2, std: float = 1.2) -> Array:
    r"""Noise levels of EDM's training, which are the times of the process `edm`.

    $\log\sigma = m + s\,\Phi^{-1}(u)$

    This distribution is part of the objective: no weight undoes it.  Shapes: `uniform` in [0, 1) any -> same, positive.
    Source: Karras, Aittala, Aila, Laine 2022, table 1.

    >>> round(float(jnp.log(log_normal_times(jnp.array(0.5)))), 5)
    -1.2
    """
    tiny = jnp.finfo(jnp.result_type(uniform, float)).tiny
    return jnp.exp(mean + std * ndtri(jnp.maximum(uniform, tiny)))


def importance_times(uniform: Array, density: Callable[[Array], Array], edges: Array) -> Times:
    r"""Times from a given density, with the weights that leave the expectation of a mean over uniform times as it is.

    $t\sim p,\ w = \frac{1}{(b-a)\,p(t)}:\quad \mathbb E[w\,l(t)] = \frac1{b-a}\int_a^bl(t)\,dt$

    p is constant on each cell between two edges, proportional to `density` at the middle: whatever the density, the estimate
    is unbiased for each entry of the batch.  With p near l the variance nearly vanishes: for the likelihood weighting of a
    nearly perfect network take -d log-SNR / dt (`process.diffusion` over `process.sigma`, squared), with edges that crowd
    where it is large (`jnp.geomspace`).  Shapes: `uniform` any -> `Times` of the same; `density`: times -> positive values;
    `edges` [K + 1], rising from a to b.  Raises ValueError for fewer than two edges, and, where they are
    concrete, for edges that do not rise or a density that is not positive.
    Source: Song, Durkan, Murray, Ermon 2021.

    >>> times = importance_times(jnp.array([0.25, 0.75]), lambda t: 1 + 0 * t, jnp.array([0.0, 1.0, 4.0]))
    >>> times.t.tolist(), times.weight.tolist()
    ([1.0, 3.0], [1.0, 1.0])
    """
    edges = jnp.asarray(edges, jnp.result_type(uniform, float))
    if edges.ndim != 1 or len(edges) < 2:
        raise ValueError(f"cells need at least two edges on one axis, got shape {edges.shape}")
    widths = jnp.diff(edges)
    mass = density(0.5 * (edges[1:] + edges[:-1])) * widths
    for name, values in (("edges rise", widths), ("the density is positive and finite", mass / widths)):
        if not isinstance(values, Tracer) and not ((values > 0) & jnp.isfinite(values)).all():
            raise ValueError(f"{name} in every cell, got {values}")
    mass = mass / mass.sum()
    ends = jnp.cumsum(mass)
    cell = jnp.clip(jnp.searchsorted(ends, uniform, side="right"), 0, len(mass) - 1)
    inside = jnp.clip((uniform - (ends - mass)[cell]) / mass[cell], 0.0, 1.0)
    return Times(edges[cell] + inside * widths[cell], widths[cell] / ((edges[-1] - edges[0]) * mass[cell]))
