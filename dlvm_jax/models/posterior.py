"""Neural posteriors q(theta | x) on the prior's own support, and posteriors from a likelihood or a ratio by resampling or chains.

A posterior is a conditional `Density` of theta whose context is x.  It cannot leave the prior's support: the last step of its
flow is a bijection onto it, whose log-determinant counts like that of any other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional import sbi
from dlvm_jax.functional.chains import effective_sample_size, split_r_hat
from dlvm_jax.functional.flows.continuous import flow_matching_loss
from dlvm_jax.functional.numerics import as_wide, log_mean_exp
from dlvm_jax.models import chains
from dlvm_jax.models.bijections import Bijection
from dlvm_jax.models.density import Density, Net
from dlvm_jax.models.objectives import Objective

__all__ = [
    "IDENTITY",
    "Drawn",
    "averaged",
    "chained",
    "contrastive",
    "dequantised",
    "ensemble",
    "flow_matching",
    "neural_posterior",
    "resampled",
    "several",
    "standardised",
    "support",
    "truncated",
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


IDENTITY = Net(lambda key: {}, lambda params, x: x)


def _summary(embedding, moments, params, x):
    """What the density of standardised parameters sees of x."""
    mean, std = moments[1]
    return embedding.apply(params["embedding"], (x - mean) / std)


def neural_posterior(inner: Density, onto: Bijection, moments: Any, embedding: Net = IDENTITY) -> Density:
    """The density q(theta | x) by one of standardised coordinates given a standardised x, brought onto a support.

    inner: a conditional density of D reals, of any kind;  onto: `support` of the prior
    moments: (mean, std) [D] of the parameters brought to R^D by `onto`, and (mean, std) [C] of x
    embedding: x [*batch, C] -> its summary [*batch, F], which is trained with `inner`

    Without a support (infinite ends) it is as well a neural likelihood q(x | theta), with the roles exchanged.
    """
    mean, std = (jnp.asarray(part) for part in moments[0])
    log_scale = jnp.log(std).sum()

    def init(key):
        key_inner, key_embedding = jax.random.split(key)
        return {"inner": inner.init(key_inner), "embedding": embedding.init(key_embedding)}

    def log_prob(params, key, theta, context=None):
        theta = as_wide(theta)
        u, log_det = onto.inverse({}, theta)
        given = _summary(embedding, moments, params, context)
        value = inner.log_prob(params["inner"], key, (u - mean) / std, given) + log_det - log_scale
        return jnp.where(jnp.isnan(theta).any(-1), jnp.nan, value)

    def sample(params, key, context=None, shape=()):
        given = _summary(embedding, moments, params, context)
        z, log_q = inner.sample(params["inner"], key, given, shape)
        theta, log_det = onto.forward({}, mean + std * z)
        return theta, None if log_q is None else log_q - log_det - log_scale

    return Density(init, sample, log_prob, inner.kind, reparameterised=inner.reparameterised)


def standardised(objective: Objective, onto: Bijection, moments: Any, embedding: Net = IDENTITY) -> Objective:
    """The objective of the inner density of a `neural_posterior`, on batches of (theta, x)."""
    mean, std = moments[0]

    def moved(params, key, batch, step=None):
        theta, x = batch
        u = (onto.inverse({}, theta)[0] - mean) / std
        return objective(params["inner"], key, (u, _summary(embedding, moments, params, x)), step)

    return moved


def flow_matching(velocity: Net) -> Objective:
    """Flow-matching posterior estimation (FMPE): the loss of the velocity of a `continuous` flow, on standardised (theta, x).

    velocity: (u, t, x) -> like u;  the params are those of the flow's density
    Source: Wildberger et al. 2023.
    """

    def objective(params, key, batch, step=None):
        u, x = batch
        key_noise, key_time = jax.random.split(key)
        t = jax.random.uniform(key_time, u.shape[:-1])
        noise = jax.random.normal(key_noise, u.shape)
        field = lambda u, t: velocity.apply(params["flow"], u, t, x)
        return flow_matching_loss(field, noise, u, t).mean(), {}

    return objective


def dequantised(objective: Objective, whole: np.ndarray) -> Objective:
    """An objective on batches (x, context) whose whole numbers get uniform noise of one unit around them.

    whole: which numbers of x have none but whole values, [C]

    A density of whole numbers themselves has no bound.  With noise its value at one is near to the number's probability.
    Source: Theis, van den Oord, Bethge 2016 (uniform noise).
    """

    def noisy(params, key, batch, step=None):
        x, context = batch
        key_noise, key = jax.random.split(key)
        noise = jax.random.uniform(key_noise, x.shape, minval=-0.5, maxval=0.5)
        return objective(params, key, (jnp.where(whole, x + noise, x), context), step)

    return noisy


def averaged(embedding: Net, dim: int) -> Net:
    """An embedding of several observations, one after another in [*batch, n dim]: the mean over them, whatever their order.

    Source: Zaheer et al. 2017 (deep sets; what follows is the network that takes the summary).
    """
    each = lambda x: x.reshape(*x.shape[:-1], -1, dim)
    return Net(embedding.init, lambda params, x: embedding.apply(params, each(x)).mean(-2))


def several(density: Density, dim: int, count: int) -> Density:
    """The density of independent x [dim] given one context, one after another in [*batch, n dim].

    count: how many a sample has; `log_prob` takes any number
    """

    def log_prob(params, key, x, context):
        x = as_wide(x)
        x = x.reshape(*x.shape[:-1], -1, dim)
        context = jnp.broadcast_to(context[..., None, :], (*x.shape[:-1], context.shape[-1]))
        return density.log_prob(params, key, x, context).sum(-1)

    def sample(params, key, context=None, shape=()):
        x, log_p = density.sample(params, key, context, (count, *shape))
        x = jnp.moveaxis(x, 0, -2)
        return x.reshape(*x.shape[:-2], -1), None if log_p is None else log_p.sum(0)

    return density._replace(log_prob=log_prob, sample=sample)


def ensemble(density: Density) -> Density:
    """The mixture of a density under several params, with equal weights; its params are their tuple.

    Source: Lakshminarayanan, Pritzel, Blundell 2017 (the mean of the members' probabilities).
    """

    def log_prob(params, key, x, context=None):
        return log_mean_exp(jnp.stack([density.log_prob(own, key, x, context) for own in params]))

    def sample(params, key, context=None, shape=()):
        key_member, *keys = jax.random.split(key, len(params) + 1)
        each = [density.sample(own, k, context, shape)[0] for own, k in zip(params, keys, strict=True)]
        member = jax.random.randint(key_member, each[0].shape[:-1], 0, len(each))
        return jnp.take_along_axis(jnp.stack(each), member[None, ..., None], axis=0)[0], None

    init = lambda key: (density.init(key),)
    return density._replace(init=init, log_prob=log_prob, sample=sample, reparameterised=False)


def contrastive(log_ratio: Callable, atoms: int) -> Objective:
    """Neural ratio estimation by contrast (NRE-B): each x with its own parameters and those of its neighbours in the batch.

    log_ratio: (params, theta, x) -> [*batch], or [*batch, n] of n independent observations
    atoms: parameters of each x, at most the examples of a batch

    Source: Durkan, Murray, Papamakarios 2020.
    """

    def objective(params, key, batch, step=None):
        theta, x = batch
        among = jnp.stack([jnp.roll(theta, shift, axis=0) for shift in range(min(atoms, len(theta)))])
        logits = log_ratio(params, among, jnp.broadcast_to(x, (len(among), *x.shape)))
        return sbi.contrastive_loss(logits).mean(), {}

    return objective


class Drawn(NamedTuple):
    """Draws [count, D] of a posterior, how many are effective, and R-hat where Markov chains made them."""

    draws: jax.Array
    effective: jax.Array
    r_hat: jax.Array | None = None


def resampled(key: jax.Array, theta: jax.Array, log_weights: jax.Array, count: int) -> Drawn:
    """Importance resampling, with replacement: what a target is to a proposal, the weights say.

    theta: draws of the proposal [N, D];  log_weights: log target - log proposal [N], up to a constant

    The effective sample size (sum w)^2 / sum w^2 is of N; it cannot tell of a mode that no draw has found.  All is NaN where a
    weight is, or where the target holds no draw.
    Source: Rubin 1988; Kong 1992.
    """
    share = jax.nn.softmax(log_weights)
    chosen = jax.random.choice(key, len(theta), (count,), p=share)
    return Drawn(jnp.where(jnp.isnan(share).any(), jnp.nan, theta[chosen]), 1 / jnp.square(share).sum())


def chained(key: jax.Array, log_posterior: Callable, onto: Bijection, start: jax.Array, count: int) -> Drawn:
    """Draws of an unnormalised posterior by Markov chains, in the unbounded coordinates of its support.

    log_posterior: (theta [D]) -> scalar, nats;  onto: `support` of the prior, whose log-determinant counts
    start: where the chains start, [M, D]: each finds the mode that it starts at, so that their shares are those of the modes

    One draw of each chain, then the next.  The effective sample size is the smallest of a coordinate, R-hat the largest.
    Raises ValueError where blackjax is not installed.
    """

    def log_density(u):
        theta, log_det = onto.forward({}, u)
        return log_posterior(theta) + log_det

    u = chains.nuts(key, log_density, onto.inverse({}, start)[0], max(4, -(-count // len(start))))
    theta = onto.forward({}, u)[0]
    draws = jnp.swapaxes(theta, 0, 1).reshape(-1, theta.shape[-1])[:count]
    return Drawn(draws, effective_sample_size(theta).min(), split_r_hat(theta).max())


CHUNK, CHUNKS = 50_000, 20  # draws at a time, and how often, until it is given up to find enough


def truncated(
    key: jax.Array, draw_prior: Callable, draw_q: Callable, log_prior: Callable, log_q: Callable, count: int
) -> Drawn:
    """Draws of a prior that is cut off where q, the posterior of an observation, leaves out 1e-4 of itself (`sbi.truncation`).

    draw_prior, draw_q: (key, count) -> theta [count, D];  log_prior, log_q: (theta) -> [*batch]

    By rejection of draws of the prior, all of them effective.  Where a million hold too few, by importance resampling of draws
    of q, with duplicates.  No draw leaves the prior's support or the region.
    Source: Deistler, Goncalves, Macke 2022.
    """
    key_region, key_prior, key_q, key_choice = jax.random.split(key, 4)
    draw_prior, draw_q = (jax.jit(draw, static_argnums=1) for draw in (draw_prior, draw_q))
    log_q = jax.jit(log_q)
    end = sbi.truncation(log_q(draw_q(key_region, CHUNK)))
    found: list[np.ndarray] = []
    for part in jax.random.split(key_prior, CHUNKS):
        theta = draw_prior(part, CHUNK)
        found.append(np.asarray(theta)[np.asarray(log_q(theta) >= end)])
        if (enough := sum(map(len, found))) >= count:
            return Drawn(jnp.asarray(np.concatenate(found)[:count]), jnp.asarray(float(count)))
        if enough * CHUNKS < count * len(found) / 2:  # hopeless
            break
    theta = jnp.concatenate([draw_q(part, CHUNK) for part in jax.random.split(key_q, CHUNKS)])
    log_density = jnp.concatenate([log_q(part) for part in jnp.split(theta, CHUNKS)])
    log_weights = jnp.where(log_density >= end, log_prior(theta) - log_density, -jnp.inf)
    return resampled(key_choice, theta, log_weights, count)
