"""Neural posteriors q(theta | x) on the prior's own support, and posteriors from a likelihood or a ratio by resampling.

A posterior is a conditional `Density` of theta whose context is x.  It cannot leave the prior's support: the last step of its
flow is a bijection onto it, whose log-determinant counts like that of any other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional import sbi
from dlvm_jax.functional.flows.continuous import flow_matching_loss
from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.models.bijections import Bijection, chain
from dlvm_jax.models.density import Density, Net, standard_normal
from dlvm_jax.models.flows import transformed
from dlvm_jax.models.objectives import Objective

__all__ = [
    "Resampled",
    "contrastive",
    "flow_matching",
    "neural_posterior",
    "resampled",
    "support",
]

EDGE = 1e-7  # how near to an end of the support a point is taken to be at most, as a share of the box


def support(low: Any, high: Any) -> Bijection:
    """From R^D onto a box: a logistic function where both ends are finite, an exponential where one is, else nothing.

    low, high: its ends, [D] each, infinite where it has none

    The inverse has the log-determinant -inf for points outside.  Raises ValueError for ends that bound nothing.
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    if low.shape != high.shape or low.ndim != 1 or not (low < high).all():
        raise ValueError(f"a support has ends low < high, [D] each, got {low.tolist()} and {high.tolist()}")
    below, above = np.isfinite(low), np.isfinite(high)
    both, one, upper = below & above, below != above, above & ~below
    sign = np.where(upper, -1.0, 1.0).astype(np.float32)
    start = np.where(below, low, np.where(above, high, 0)).astype(np.float32)
    width = np.where(both, high - np.where(below, low, 0), 1).astype(np.float32)

    def log_slope(u):
        """log |d theta / d u|, each coordinate."""
        logistic = np.log(width) + jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)
        return jnp.where(both, logistic, jnp.where(one, u, 0.0))

    def forward(params, u, context=None):
        share = jnp.where(both, jax.nn.sigmoid(u), jnp.exp(jnp.where(one, u, 0.0)))
        theta = jnp.where(below | above, start + sign * width * share, u)
        return jnp.clip(theta, low, high), log_slope(u).sum(-1)

    def inverse(params, theta, context=None):
        theta = as_wide(theta)
        share = sign * (theta - start) / width
        inside = jnp.where(both, (share >= 0) & (share <= 1), (share > 0) | ~one).all(-1)
        within = jnp.clip(share, EDGE, 1 - EDGE)
        logit = jnp.log(within) - jnp.log1p(-within)
        one_end = jnp.log(jnp.where(share > 0, share, 1.0))
        u = jnp.where(both, logit, jnp.where(one, one_end, theta))
        return u, jnp.where(inside, -log_slope(u).sum(-1), -jnp.inf)

    return Bijection(lambda key: {}, forward, inverse)


def _standardised(flow, mean, std, context_mean, context_std):
    """The flow with a context in units of its spread, and its points moved and scaled to those of theirs."""
    mean, std = jnp.asarray(mean), jnp.asarray(std)
    log_det = jnp.log(std).sum()

    def forward(params, z, context=None):
        x, more = flow.forward(params, z, (context - context_mean) / context_std)
        return mean + std * x, more + log_det

    def inverse(params, x, context=None):
        z, more = flow.inverse(params, (x - mean) / std, (context - context_mean) / context_std)
        return z, more - log_det

    return Bijection(flow.init, forward, inverse)


def neural_posterior(flow: Bijection, onto: Bijection, moments: Any) -> Density:
    """The exact density q(theta | x) of a conditional flow from N(0, I), standardised inside, then brought onto a support.

    flow: a bijection of D standardised coordinates with a standardised context;  onto: `support` of the prior
    moments: (mean, std) [D] of the parameters brought to R^D by `onto`, and (mean, std) [C] of x

    Without a support (infinite ends) it is as well a neural likelihood q(x | theta), with the roles exchanged.
    """
    (mean, std), (context_mean, context_std) = moments
    inner = _standardised(flow, mean, std, context_mean, context_std)
    density = transformed(standard_normal(len(mean)), chain(inner, onto))

    def log_prob(params, key, theta, context=None):
        value = density.log_prob(params, key, theta, context)
        return jnp.where(jnp.isnan(as_wide(theta)).any(-1), jnp.nan, value)

    return density._replace(log_prob=log_prob)


def flow_matching(velocity: Net, onto: Bijection, moments: Any) -> Objective:
    """Flow-matching posterior estimation (FMPE): the loss of the velocity of the `continuous` flow of a `neural_posterior`.

    velocity: (u, t, x) -> like u, of standardised u and x;  onto, moments: as of `neural_posterior`

    The params are those of the density.  Source: Wildberger et al. 2023.
    """
    (mean, std), (context_mean, context_std) = moments

    def objective(params, key, batch, step=None):
        theta, x = batch
        key_noise, key_time = jax.random.split(key)
        u = (onto.inverse({}, theta)[0] - mean) / std
        t = jax.random.uniform(key_time, u.shape[:-1])
        noise = jax.random.normal(key_noise, u.shape)
        context = (x - context_mean) / context_std
        field = lambda u, t: velocity.apply(params["flow"][0], u, t, context)
        return flow_matching_loss(field, noise, u, t).mean(), {}

    return objective


def contrastive(log_ratio: Callable, atoms: int) -> Objective:
    """Neural ratio estimation by contrast (NRE-B): each x with its own parameters and those of its neighbours in the batch.

    log_ratio: (params, theta, x) -> [*batch];  atoms: parameters of each x, at most the examples of a batch

    Source: Durkan, Murray, Papamakarios 2020.
    """

    def objective(params, key, batch, step=None):
        theta, x = batch
        among = jnp.stack([jnp.roll(theta, shift, axis=0) for shift in range(min(atoms, len(theta)))])
        logits = log_ratio(params, among, jnp.broadcast_to(x, (len(among), *x.shape)))
        return sbi.contrastive_loss(logits).mean(), {}

    return objective


class Resampled(NamedTuple):
    """Draws [count, D] of a posterior, and the effective sample size of the weights that they were drawn by."""

    draws: jax.Array
    effective: jax.Array


def resampled(key: jax.Array, theta: jax.Array, log_weights: jax.Array, count: int) -> Resampled:
    """Importance resampling, with replacement: what a target is to a proposal, the weights say.

    theta: draws of the proposal [N, D];  log_weights: log target - log proposal [N], up to a constant

    The effective sample size (sum w)^2 / sum w^2 is of N; it cannot tell of a mode that no draw has found.
    Source: Rubin 1988; Kong 1992.
    """
    share = jax.nn.softmax(log_weights)
    chosen = jax.random.choice(key, len(theta), (count,), p=share)
    return Resampled(theta[chosen], 1 / jnp.square(share).sum())
