"""Codecs: a push and a pop that undo each other, for densities of levels and for latent variable models (bits back).

Networks are called with batches of one fixed shape, by one program for both directions: other shapes round otherwise.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.coding.stack import PRECISION, frequencies
from dlvm_jax.models.tables import Tables
from dlvm_jax.models.top_down import TopDown
from dlvm_jax.models.vae import Parts

__all__ = [
    "CELL",
    "LIMIT",
    "Codec",
    "Layers",
    "bits_back",
    "layers_of_hierarchy",
    "layers_of_vae",
    "levels_codec",
]

CELL = 2.0**-6  # width of a latent cell, in standard deviations of its prior
LIMIT = 2**9  # cells to each side; each has frequency 1 at least, so more of them would draw outliers


class Codec(NamedTuple):
    """How examples go on a stack and come off it.

    push: (stack, x [n, *event], given=None);  pop: (stack, n, given=None) -> x [n, *event], float32
    takes: how many bits the push of an example may take from the stack before it puts its own there
    """

    push: Callable
    pop: Callable
    takes: int = 0


def padded(x: Any, batch: int) -> np.ndarray:
    """Examples with zeros after them, `batch` in all."""
    x = np.asarray(x, np.float32)
    return np.concatenate([x, np.zeros((batch - len(x), *x.shape[1:]), np.float32)])


def levels_codec(tables: Tables, params: Any, event_shape: Sequence[int], batch: int) -> Codec:
    """The codec of an exact density of levels by its tables, step by step.

    A push is one pass of the network.  A pop is a pass for each step; where all elements are independent that is one.
    """
    log_probs, steps = jax.jit(tables.log_probs), [np.array(step) for step in tables.steps]

    def of(x, given):
        """The frequencies of a step's elements, [n elements, L]."""
        context = None if given is None else padded(given, batch)
        found = np.asarray(log_probs(params, padded(x, batch), context))[: len(x)]
        return lambda step: frequencies(found[:, step]).reshape(-1, found.shape[-1])

    def push(stack, x, given=None):
        flat, table_of = np.reshape(x, (len(x), -1)), of(x, given)
        for step in reversed(steps):
            stack.push(flat[:, step].ravel(), table_of(step))

    def pop(stack, n, given=None):
        x = np.zeros((n, *event_shape), np.float32)
        for step in steps:
            x.reshape(n, -1)[:, step] = stack.pop(of(x, given)(step)).reshape(n, -1)
        return x

    return Codec(push, pop)


class Layers(NamedTuple):
    """The Gaussian layers of a latent variable model, for vectors z [B, N] of all latent numbers.

    sizes:     of the layers, in the order in which they are drawn
    prior:     (z) -> (mean, log_std) [B, N] of each p(z_l | z_<l); those of a layer look only at the layers before
    posterior: (x, z) -> those of each q(z_l | z_<l, x)
    """

    sizes: Sequence[int]
    prior: Callable
    posterior: Callable


def _of(laws, where, n):
    """Means and standard deviations of one layer, in double precision."""
    mean, log_std = (np.asarray(a, np.float64)[:n, where] for a in laws)
    return mean, np.exp(log_std)


def _descend(layers, batch, n, choose):
    """All layers from the first, in cells of the prior: `choose(z, where, prior)` gives the cells of one.

    All latent numbers z [batch, N], and of each layer its place, its cells and its prior.
    """
    ends = np.cumsum([0, *layers.sizes])
    z, found = np.zeros((batch, ends[-1]), np.float32), []
    for start, stop in itertools.pairwise(ends):
        where = slice(start, stop)
        prior = _of(layers.prior(z), where, n)
        index = choose(z, where, prior)
        z[:n, where] = prior[0] + prior[1] * CELL * index.reshape(n, -1)
        found.append((where, index, prior))
    return z, found


def _standard(count):
    """The law of cells under their prior: its mean and standard deviation."""
    return np.zeros(count), np.full(count, 1 / CELL)


def bits_back(layers: Layers, likelihood: Codec, batch: int) -> Codec:
    r"""Bits back with asymmetric numeral systems: E[length] = KL(q || p) - E_q log p(x | z) (Townsend et al. 2019).

    Each latent number lies in a cell of width CELL standard deviations of its prior given the layers before it.  To push x, pop
    z under q(z | x), push x under p(x | z), push z under p(z).  Several layers are drawn one given the others (Townsend et al.
    2020).  The stack must hold bits to begin with, about as many as the entropy of q.

    The next push draws from what lies on top.  Where the model is not the law of the data those bits are uneven, draws would
    follow those before them, and lengths grow: so it is stirred.
    """
    takes = sum(layers.sizes) * math.ceil(math.log2(2 * LIMIT) + 1)

    def pieces(n):
        """More than the next push reads."""
        return 2 * n * takes // PRECISION

    def posterior(x, z, where, prior):
        """In cells of the prior; finite and of some width whatever the networks give."""
        mean, std = _of(layers.posterior(padded(x, batch), z), where, len(x))
        centre, width = (mean - prior[0]) / (prior[1] * CELL), std / (prior[1] * CELL)
        return np.clip(centre, -LIMIT, LIMIT).ravel(), np.clip(width, 0.1, 4 * LIMIT).ravel()

    def push(stack, x, given=None):
        choose = lambda z, where, prior: stack.pop_normal(*posterior(x, z, where, prior), LIMIT)
        z, found = _descend(layers, batch, len(x), choose)
        likelihood.push(stack, x, z[: len(x)])
        for _, index, _ in reversed(found):
            stack.push_normal(index, *_standard(index.size), LIMIT)
        stack.stir(pieces(len(x)))

    def pop(stack, n, given=None):
        stack.stir(pieces(n), back=True)
        choose = lambda z, where, prior: stack.pop_normal(*_standard(prior[0].size), LIMIT)
        z, found = _descend(layers, batch, n, choose)
        x = likelihood.pop(stack, n, z[:n])
        for where, index, prior in reversed(found):
            z[:, where] = 0  # as the push had it
            stack.push_normal(index, *posterior(x, z, where, prior), LIMIT)
        return x

    return Codec(push, pop, takes)


def layers_of_vae(parts: Parts, params: Any) -> Layers:
    """The one layer of a VAE; raises ValueError unless its prior and its posterior are Gaussian with independent elements."""
    normal_prior: Any = parts.prior.normal
    normal_posterior: Any = parts.posterior.normal
    if normal_prior is None or normal_posterior is None:
        raise ValueError(
            "bits back needs a prior and a posterior that are Gaussian with independent elements; "
            "train a VAE with such ones, as its defaults are"
        )
    mean, _ = normal_prior(params["prior"])
    everywhere = jax.jit(lambda z: [jnp.broadcast_to(a, z.shape) for a in normal_prior(params["prior"])])
    posterior = jax.jit(normal_posterior)
    return Layers(mean.shape[-1:], everywhere, lambda x, z: posterior(params["posterior"], x))


def layers_of_hierarchy(model: TopDown, params: Any) -> Layers:
    """The layers of a hierarchical VAE from the top down: for each one a pass through all.

    Raises ValueError unless they are Gaussian, and inferred from the top down.
    """
    laws_of: Any = model.laws
    if laws_of is None:
        raise ValueError(
            "bits back needs a hierarchical VAE with a Gaussian top prior, inferred from the top down; "
            "train with prior='standard' and another inference"
        )
    laws = jax.jit(lambda x, z: [model.flatten(a) for a in laws_of(params, x, model.unflatten(z))])
    return Layers(model.sizes, lambda z: laws(None, z), laws)
