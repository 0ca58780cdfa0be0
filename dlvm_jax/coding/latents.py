"""Bits back: codes of latent variable models, whose latents are drawn with bits that come back."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import ndtr

from dlvm_jax.coding.codecs import Codec, padded, stepwise
from dlvm_jax.coding.stack import PRECISION
from dlvm_jax.models.top_down import TopDown
from dlvm_jax.models.vae import Parts

__all__ = ["CELL", "LIMIT", "Layers", "bits_back", "layers_of_hierarchy", "layers_of_vae", "mixture_cells"]

CELL = 2.0**-6  # width of a latent cell, in standard deviations of its prior
LIMIT = 2**9  # cells to each side; each has frequency 1 at least, so more of them would draw outliers


class Layers(NamedTuple):
    """The Gaussian layers of a latent variable model, for vectors z [B, N] of all latent numbers.

    sizes:     of the layers, in the order in which they are drawn
    prior:     (z) -> (mean, log_std) [B, N] of each p(z_l | z_<l); those of a layer look only at the layers before
    posterior: (x, z) -> those of each q(z_l | z_<l, x)
    first:     the codec of the cells 0..2 LIMIT of the first layer, where its prior is no Gaussian; its cells are then those of
               the Gaussian that `prior` gives
    """

    sizes: Sequence[int]
    prior: Callable
    posterior: Callable
    first: Codec | None = None


def law_of(laws: Any, where: slice, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of one layer, in double precision, of the first n examples."""
    mean, log_std = (np.asarray(a, np.float64)[:n, where] for a in laws)
    return mean, np.exp(log_std)


def descend(layers: Layers, batch: int, n: int, choose: Callable, count: int | None = None) -> np.ndarray:
    """Latent numbers z [batch, N] of n examples, from the first layer, zero after `count` layers.

    choose: (z, where, prior) -> values [n, size] of a layer, at a place in vectors, given mean and standard deviation of its
            prior
    """
    ends = np.cumsum([0, *layers.sizes[:count]])
    z = np.zeros((batch, sum(layers.sizes)), np.float32)
    for start, stop in itertools.pairwise(ends):
        where = slice(start, stop)
        z[:n, where] = choose(z, where, law_of(layers.prior(z), where, n))
    return z


def _cells(layers, batch, n, choose):
    """All latent numbers, in cells of the prior that are chosen; and of each layer its place, its cells and its prior."""
    found = []

    def values(z, where, prior):
        index = choose(z, where, prior)
        found.append((where, index, prior))
        return prior[0] + prior[1] * CELL * index.reshape(n, -1)

    return descend(layers, batch, n, values), found


def _by_prior(layers):
    """The codec of the cells of one layer, by its prior: all cells are as wide in the standard deviations of their Gaussians."""
    of = lambda count: (np.zeros(count), np.full(count, 1 / CELL), LIMIT)

    def push(stack, index, where):
        if layers.first and where.start == 0:
            layers.first.push(stack, index.reshape(-1, where.stop) + LIMIT)
        else:
            stack.push_normal(index, *of(index.size))

    def pop(stack, n, where):
        if layers.first and where.start == 0:
            return layers.first.pop(stack, n).ravel() - LIMIT
        return stack.pop_normal(*of(n * (where.stop - where.start)))

    return push, pop


def bits_back(layers: Layers, likelihood: Codec, batch: int) -> Codec:
    r"""Bits back with asymmetric numeral systems: E[length] = KL(q || p) - E_q log p(x | z) (Townsend et al. 2019).

    Each latent number lies in a cell of width CELL standard deviations of its prior given the layers before it.  To push x, pop
    z under q(z | x), push x under p(x | z), push z under p(z).  Several layers are drawn one given the others (Townsend et al.
    2020).  The stack must hold bits to begin with, about as many as the entropy of q.

    The next push draws from what lies on top.  Where the model is not the law of the data those bits are uneven, draws would
    follow those before them, and lengths grow: so it is stirred.
    """
    push_cells, pop_cells = _by_prior(layers)
    takes = sum(layers.sizes) * math.ceil(math.log2(2 * LIMIT) + 1)

    def pieces(n):
        """More than the next push reads."""
        return 2 * n * takes // PRECISION

    def posterior(x, z, where, prior):
        """In cells of the prior; finite and of some width whatever the networks give."""
        mean, std = law_of(layers.posterior(padded(x, batch), z), where, len(x))
        centre, width = (mean - prior[0]) / (prior[1] * CELL), std / (prior[1] * CELL)
        return np.clip(centre, -LIMIT, LIMIT).ravel(), np.clip(width, 0.1, 4 * LIMIT).ravel()

    def push(stack, x, given=None):
        choose = lambda z, where, prior: stack.pop_normal(*posterior(x, z, where, prior), LIMIT)
        z, found = _cells(layers, batch, len(x), choose)
        likelihood.push(stack, x, z[: len(x)])
        for where, index, _ in reversed(found):
            push_cells(stack, index, where)
        stack.stir(pieces(len(x)))

    def pop(stack, n, given=None):
        stack.stir(pieces(n), back=True)
        choose = lambda z, where, prior: pop_cells(stack, n, where)
        z, found = _cells(layers, batch, n, choose)
        x = likelihood.pop(stack, n, z[:n])
        for where, index, prior in reversed(found):
            z[:, where] = 0  # as the push had it
            stack.push_normal(index, *posterior(x, z, where, prior), LIMIT)
        return x

    return Codec(push, pop, takes)


def mixture_cells(mean: Any, log_std: Any, log_weights: Any) -> tuple[tuple[np.ndarray, np.ndarray], Codec]:
    """A mixture of Gaussians [K, M] with independent elements, of weights [K]: the Gaussian of its mean and variance, and the
    codec of the cells of that, 0..2 LIMIT, under the mixture, one element after the other.

    p(k_i | k_<i) = sum_c p(c | k_<i) P_c(k_i), with the weights of the components given the cells before.
    """
    mean, std = np.asarray(mean, np.float64), np.exp(np.asarray(log_std, np.float64))
    log_weights = np.asarray(log_weights, np.float64)
    weights = np.exp(log_weights - log_weights.max())[:, None] / np.exp(log_weights - log_weights.max()).sum()
    middle = (weights * mean).sum(0)
    spread = np.sqrt((weights * (std**2 + (mean - middle) ** 2)).sum(0))
    edges = np.concatenate([[-np.inf], CELL * (np.arange(-LIMIT, LIMIT) + 0.5), [np.inf]])

    def log_masses(i):
        """log P_c(k) of element i, [K, cells]."""
        places = (middle[i] + spread[i] * edges - mean[:, i, None]) / std[:, i, None]
        low, high = places[:, :-1], places[:, 1:]
        tail = low > 0  # the upper one: mirrored, it keeps its digits
        mass = np.where(tail, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
        return np.log(np.maximum(mass, 1e-300))

    each = [log_masses(i) for i in range(mean.shape[1])]

    def conditionals(index, given, known):
        log_w = np.broadcast_to(log_weights, (len(index), len(mean)))
        for i, of_element in enumerate(each):
            w = np.exp(log_w - log_w.max(1, keepdims=True))
            yield np.log(np.maximum(w @ np.exp(of_element), 1e-300))[:, None]
            log_w = log_w + of_element[:, index[:, i].astype(int)].T

    steps = [np.array([i]) for i in range(len(each))]
    return (middle, np.log(spread)), stepwise(conditionals, steps, mean.shape[1:])


def layers_of_vae(parts: Parts, params: Any) -> Layers:
    """The one layer of a VAE; raises ValueError unless its posterior is Gaussian with independent elements, its prior too or a
    mixture of such."""
    prior: Any = parts.prior
    normal_posterior: Any = parts.posterior.normal
    if normal_posterior is None or not (prior.normal or prior.mixture):
        raise ValueError(
            "bits back needs a posterior that is Gaussian with independent elements, and a prior that is one or a mixture of "
            "such; train a VAE with posterior='normal' and a standard, learned, mixture or VampPrior"
        )
    own, first = parts.tied(params)["prior"], None
    law = prior.normal(own) if prior.normal else None
    if law is None:
        law, first = mixture_cells(*prior.mixture(own))
    posterior = jax.jit(normal_posterior)
    everywhere = lambda z: [np.broadcast_to(a, z.shape) for a in law]
    return Layers(law[0].shape[-1:], everywhere, lambda x, z: posterior(params["posterior"], x), first)


def layers_of_hierarchy(model: TopDown, params: Any) -> Layers:
    """The layers of a hierarchical VAE from the top down: for each one a pass through all.

    Raises ValueError unless they are Gaussian (the top prior may be a mixture), and inferred from the top down.
    """
    if model.laws is None:
        raise ValueError(
            "bits back needs a hierarchical VAE whose top prior is Gaussian or a mixture, inferred from the top down; train "
            "with a standard, learned, mixture or VampPrior and another inference"
        )
    compiled = _laws(model)
    laws = lambda x, z: compiled(params, x, z)
    if model.top_mixture is None:
        return Layers(model.sizes, lambda z: laws(None, z), laws)
    top, first = mixture_cells(*model.top_mixture(params))

    def prior(z):
        below = [np.asarray(a)[:, model.sizes[0] :] for a in laws(None, z)]
        return [np.hstack([np.broadcast_to(a, (len(z), len(a))), b]) for a, b in zip(top, below, strict=True)]

    return Layers(model.sizes, prior, laws, first)


@functools.cache  # compiled once a model
def _laws(model):
    laws: Any = model.laws
    return jax.jit(lambda params, x, z: [model.flatten(a) for a in laws(params, x, model.unflatten(z))])
