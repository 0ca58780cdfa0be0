"""The VQ-VAE: an encoder whose vectors are put on the nearest codes, a prior of the grid of codes, a decoder of their vectors.

What the vectors are put on is a `Quantiser`: a code book that trains by gradient, one that follows moving averages, or a fixed
grid of scalars.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional import vector_quantisation as vq
from dlvm_jax.functional.numerics import as_array
from dlvm_jax.models import density
from dlvm_jax.models.density import Density, Net, as_arrays, batch_of, join, require_kind
from dlvm_jax.models.objectives import Objective, unpack

__all__ = [
    "GRADIENTS",
    "Book",
    "Coded",
    "Parts",
    "Quantiser",
    "averaged_book",
    "finite_scalars",
    "objective",
    "trained_book",
    "uniform_codes",
    "vq_vae",
]

GRADIENTS = {"straight-through": vq.straight_through, "rotation": vq.rotation}


class Book(NamedTuple):
    """A code book by moving averages: its codes [K, D], how many vectors each was given [K], and their sum [K, D]."""

    codes: jax.Array
    counts: jax.Array
    sums: jax.Array


class Quantiser(NamedTuple):
    """How vectors of D numbers are put on one of K codes.

    levels:  K
    init:    (key) -> the book: parameters, or, where it follows without gradient, variables
    index:   (book, z [*batch, D]) -> [*batch], integers below K
    codes:   (book, index [*batch]) -> [*batch, D]
    pass_on: (z, code) -> the code, with a gradient of z
    loss:    (z, code) -> [*batch], what draws vectors and codes together
    follow:  (key, book, z [N, D], index [N]) -> the book of the next step, of one without gradient
    """

    levels: int
    init: Callable
    index: Callable
    codes: Callable
    pass_on: Callable
    loss: Callable
    follow: Callable | None = None


def trained_book(
    levels: int, dim: int, commitment: float = 0.25, gradient: str = "straight-through"
) -> Quantiser:
    r"""A code book that trains by gradient: $\|\mathrm{sg}(z)-e\|^2 + \beta\|z-\mathrm{sg}(e)\|^2$.

    commitment: beta;  gradient: past the codes, a name in `GRADIENTS`
    Codes start near zero, closer than the vectors are: far ones would all lose to that of the smallest norm.
    Source: van den Oord et al. 2017, eq. 3.
    """
    return Quantiser(
        levels,
        lambda key: jax.random.uniform(key, (levels, dim), minval=-1 / levels, maxval=1 / levels),
        lambda book, z: vq.nearest_codes(z, book),
        lambda book, index: book[index],
        GRADIENTS[gradient],
        lambda z, code: vq.codebook_loss(z, code) + commitment * vq.commitment_loss(z, code),
    )


def averaged_book(
    levels: int,
    dim: int,
    commitment: float = 0.25,
    gradient: str = "straight-through",
    decay: float = 0.99,
    restart: float = 0.1,
) -> Quantiser:
    """A code book by moving averages of the vectors that each code is given (van den Oord et al. 2017, appendix A.1).

    commitment, gradient: as of `trained_book`
    decay:   of the averages;  0 is one step of Lloyd's algorithm
    restart: a code whose count is below so many mean counts starts anew, on a vector of the batch and with the mean count;
             0: none does
    """

    def init(key):
        codes = jax.random.normal(key, (levels, dim))
        return Book(codes, jnp.ones(levels), codes)

    def follow(key, book, z, index):
        averages = vq.moving_averages(vq.Averages(book.counts, book.sums), z, index, decay)
        codes, mean = vq.codes_of(averages, book.codes), averages.counts.mean()
        codes, anew = vq.restart(key, codes, averages.counts, z, restart * mean)
        return Book(
            codes,
            jnp.where(anew, mean, averages.counts),
            jnp.where(anew[:, None], mean * codes, averages.sums),
        )

    return Quantiser(
        levels,
        init,
        lambda book, z: vq.nearest_codes(z, book.codes),
        lambda book, index: book.codes[index],
        GRADIENTS[gradient],
        lambda z, code: commitment * vq.commitment_loss(z, code),
        follow,
    )


def finite_scalars(levels: Sequence[int]) -> Quantiser:
    """A grid of so many levels of each number in place of a book; nothing is added to the objective (Mentzer et al. 2023)."""
    levels = tuple(levels)
    return Quantiser(
        math.prod(levels),
        lambda key: {},
        lambda book, z: vq.finite_scalar_index(vq.finite_scalar(z, levels), levels),
        lambda book, index: vq.finite_scalar_code(index, levels),
        lambda z, code: vq.straight_through(jnp.tanh(z), code),
        lambda z, code: jnp.zeros(z.shape[:-1]),
    )


def uniform_codes(levels: int, grid: Sequence[int]) -> Density:
    r"""The uniform density of a grid of codes, $\log p(k) = -N\log K$ for its N places: the prior in training."""
    zeros = density.Net(lambda key: {}, lambda params, context: jnp.zeros((*grid, levels)))
    return density.conditional(zeros, density.categorical(levels), grid)


class Coded(NamedTuple):
    """Of an example: the encoder's vectors [*batch, *grid, D], their codes' numbers [*batch, *grid], what the decoder sees."""

    z: jax.Array
    index: jax.Array
    code: jax.Array


class Parts(NamedTuple):
    """What a VQ-VAE is made of; `vq_vae(Parts(...))` is its density.

    encoder:   x -> vectors [*batch, *grid, D]
    quantiser: what they are put on
    prior:     of grids of codes 0..K-1 [*batch, *grid]
    decoder:   p(x | vectors of the codes), or p(x | vectors, context): the codes need not say what the context does

    The params are {"encoder", "prior", "decoder", "book"}, or the pair of these without the book, and the book, where it is
    followed without gradient.
    """

    encoder: Net
    quantiser: Quantiser
    prior: Density
    decoder: Density

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters; without the book where that is followed."""
        keys = jax.random.split(key, 4)
        params = {
            "encoder": self.encoder.init(keys[0]),
            "prior": self.prior.init(keys[1]),
            "decoder": self.decoder.init(keys[2]),
        }
        return params if self.quantiser.follow else {**params, "book": self.quantiser.init(keys[3])}

    def whole(self, params: Any) -> dict[str, Any]:
        """The params with the book among them."""
        return {**params[0], "book": params[1]} if self.quantiser.follow else params

    def encode(self, params: Any, x: jax.Array) -> Coded:
        """The codes of x [*batch, *event]; what the decoder sees passes gradients on to the encoder."""
        params = self.whole(params)
        z = self.encoder.apply(params["encoder"], as_array(x))
        index = self.quantiser.index(params["book"], z)
        return Coded(z, index, self.quantiser.pass_on(z, self.quantiser.codes(params["book"], index)))

    def decode(self, params: Any, index: jax.Array, context: Any = None) -> jax.Array:
        """The mean of p(x | k) for codes [*batch, *grid], under a context where there is one."""
        return self.decoder.mean(self.whole(params)["decoder"], join(self.vectors(params, index), context))

    def vectors(self, params: Any, index: jax.Array) -> jax.Array:
        """What the decoder sees of codes [*batch, *grid]: [*batch, *grid, D]."""
        params = self.whole(params)
        return self.quantiser.codes(params["book"], index.astype(jnp.int32))


def vq_vae(parts: Parts) -> Density:
    r"""The density of a VQ-VAE by the codes that its encoder takes: $\log p(x\mid e_{k(x)}) + \log p(k(x)) \le \log p(x)$.

    $p(x)=\sum_k p(k)\,p(x\mid e_k)$ over all grids of codes, of which this is one term: a "bound", of every x and not only on
    average.  It is the ELBO of the posterior that is sure of k(x), and its KL is minus log p(k(x)), the length of the codes.
    Under another prior the same params serve, but for "prior".  A context is the decoder's alone; prior and encoder see none.
    Source: van den Oord et al. 2017, section 3.2.  Raises ValueError for a prior of other levels.
    """
    quantiser, prior, decoder = parts.quantiser, parts.prior, parts.decoder
    for part, role in ((prior, "a prior"), (decoder, "a decoder")):
        require_kind(part, ("exact", "weight", "bound"), role)
    if prior.space.levels != quantiser.levels:
        raise ValueError(f"the prior is of {quantiser.levels} codes, got one of {prior.space}")

    def init(key):
        key, key_book = jax.random.split(key)
        params = parts.init(key)
        return (params, quantiser.init(key_book)) if quantiser.follow else params

    def terms(params, key, x, context=None):
        return _terms(parts, params, key, x, context, parts.encode(params, x))

    def log_prob(params, key, x, context=None):
        both = terms(params, key, x, context)
        return both["reconstruction"] - both["kl"]

    def sample(params, key, context=None, shape=()):
        own = parts.whole(params)
        key_codes, key_x = jax.random.split(key)
        shape, repeats = (*shape, *batch_of(context)), math.prod(shape)
        index, _ = prior.sample(own["prior"], key_codes, None, (math.prod(shape),))
        given = jax.tree.map(lambda a: jnp.tile(a, (repeats, *(1,) * (a.ndim - 1))), as_arrays(context))
        x, _ = decoder.sample(own["decoder"], key_x, join(parts.vectors(params, index), given))
        return x.reshape(*shape, *x.shape[1:]), None

    return Density(
        init,
        sample,
        log_prob,
        "bound",
        terms=terms,
        reparameterised=False,
        space=decoder.space,
    )


def _terms(parts, params, key, x, context, coded):
    """Reconstruction and length of the codes of each example."""
    params = parts.whole(params)
    key_prior, key_lik = (None, None) if key is None else jax.random.split(key)
    index = coded.index.astype(coded.z.dtype)
    return {
        "reconstruction": parts.decoder.log_prob(params["decoder"], key_lik, x, join(coded.code, context)),
        "kl": -parts.prior.log_prob(params["prior"], key_prior, index),
    }


def objective(parts: Parts) -> Objective:
    r"""Minus the reconstruction plus the loss of the quantiser, in the mean over the N places of the grid.

    $-\log p(x\mid e_{k(x)}) + \frac1N\sum_n\big(\|\mathrm{sg}(z_n)-e_n\|^2 + \beta\|z_n-\mathrm{sg}(e_n)\|^2\big)$

    Without the first of the two for a book that is followed, without both for a fixed grid.

    The prior has no part in it: it is uniform while this trains, and learned afterwards.
    Metrics: "bound" (under the parts' prior), "reconstruction", "kl", "quantisation" (the added loss), "perplexity" of the codes
    of the batch; "variables", the next book, of one that is followed.
    Source: van den Oord et al. 2017, eq. 3.
    """
    quantiser = parts.quantiser

    def loss_of(params, key, batch, step=None):
        x, context = unpack(batch)
        key_terms, key_book = jax.random.split(key)
        coded = parts.encode(params, x)
        terms = _terms(parts, params, key_terms, x, context, coded)
        terms = {name: value.mean() for name, value in terms.items()}
        book = parts.whole(params)["book"]
        loss = quantiser.loss(coded.z, quantiser.codes(book, coded.index)).mean()
        given = jax.nn.one_hot(coded.index.ravel(), quantiser.levels).sum(0)
        metrics = {
            "bound": terms["reconstruction"] - terms["kl"],
            **terms,
            "quantisation": loss,
            "perplexity": vq.perplexity(given),
        }
        if quantiser.follow:
            z = jax.lax.stop_gradient(coded.z).reshape(-1, coded.z.shape[-1])
            metrics["variables"] = quantiser.follow(key_book, book, z, coded.index.ravel())
        return loss - terms["reconstruction"], metrics

    return loss_of
