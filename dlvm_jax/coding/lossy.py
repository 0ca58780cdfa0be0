"""Lossy compression: integers that stand for examples, their codec, and examples made of them.

Networks say what the integers mean, and of a VQ-VAE how probable they are.  Those of Gaussian latents are coded without one.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import ndtr

from dlvm_jax.coding.codecs import Codec, in_batches, padded
from dlvm_jax.coding.latents import Layers, descend, law_of
from dlvm_jax.coding.models import check_unconditional, layers_of, prior_of_codes
from dlvm_jax.coding.stack import Stack, frequencies
from dlvm_jax.models import vq_vae
from dlvm_jax.train.fitted import Fitted

__all__ = ["Loss", "Lossy", "lossy_of"]

LIMIT = 2**12  # cells to each side
EXPONENTS = 64  # of widths in quarters of an octave, and of scales
WIDEST, LEAST_SCALE = 16, 2.0**-3  # in standard deviations of the prior; in cells
FINEST = 4 * math.log2(LIMIT)  # exponent of the narrowest cells, which still reach to 16 standard deviations


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a stream leaves out of examples.

    layers: so many of a hierarchical VAE are kept, from the top, the others left to their priors; None: all are kept
    step:   width of the cells that latent numbers are rounded to, in standard deviations of their posteriors; at least 1/256 of
            one of the prior

    Of a VQ-VAE nothing can be chosen.
    """

    layers: int | None = None
    step: float = 2.0


class Lossy(NamedTuple):
    """Integers that stand for examples.

    codes:    (x [N, *event]) -> integers
    codec:    of those of all examples at once; its pop is given the number of examples
    examples: (integers, seed=None) -> x [N, *event]: means; with a seed what was left out is drawn
    """

    codes: Callable
    codec: Codec
    examples: Callable


def lossy_of(fitted: Fitted, loss: Loss, batch: int) -> Lossy:
    """Examples by the codes of a VQ-VAE, or by rounded latent numbers of a (hierarchical) VAE; networks see `batch` at once.

    Raises ValueError for a model of another kind, or of examples given something, and for a loss that it does not have.
    """
    check_unconditional(fitted)
    model: Any = fitted.model
    params = fitted.params
    if isinstance(model.parts, vq_vae.Parts):
        if loss != Loss():
            raise ValueError(
                f"the codes of a VQ-VAE are kept as they are, got {loss}; leave the loss as it is"
            )
        encode, decode = (jax.jit(f) for f in (model.encode, model.decode))
        return Lossy(
            lambda x: _mapped(lambda x: encode(params, x), x, batch),
            in_batches(prior_of_codes(fitted, batch), batch),
            lambda codes, seed=None: _mapped(lambda index: decode(params, index), codes, batch),
        )
    layers = layers_of(fitted)
    if layers is None:
        raise ValueError(
            f"a model of {type(fitted.recipe).__name__} has no codes; VAEs, hierarchical VAEs and VQ-VAEs compress with loss"
        )
    count = len(layers.sizes)
    if not 0 < loss.step < np.inf:
        raise ValueError(f"cells have a positive width, got a step of {loss.step}")
    if loss.layers is not None and not 1 <= loss.layers <= count:
        raise ValueError(f"of the {count} layers of this model at least one is kept, got {loss.layers}")
    decode = jax.jit(model.decode)
    return _rounded(layers, lambda z: decode(params, z), loss.layers or count, loss.step, batch)


def _mapped(function: Callable, x: Any, batch: int) -> np.ndarray:
    """A function of batches of one size, of any number of examples."""
    parts = [x[start : start + batch] for start in range(0, len(x), batch)]
    return np.concatenate([np.asarray(function(padded(part, batch)))[: len(part)] for part in parts])


def _rounded(layers: Layers, decode: Callable, kept: int, step: float, batch: int) -> Lossy:
    """The posterior's means in cells about the prior's.

    A cell is `step` times as wide as the posterior of its number (the root of its mean variance over the examples, to a quarter
    of an octave): rounding is then as exact everywhere as the decoder asks for.  The codes are [1 + N, numbers kept]; their first
    row says the widths.
    """
    numbers = sum(layers.sizes[:kept])

    def each(x, choose):
        """Go through the layers kept, a batch after the other; `choose` is given the place of its examples too."""
        for start in range(0, len(x), batch):
            part = padded(x[start : start + batch], batch)
            rows = slice(start, min(start + batch, len(x)))
            n = rows.stop - start

            def values(z, where, prior, part=part, rows=rows, n=n):
                return choose(rows, where, prior, law_of(layers.posterior(part, z), where, n))

            descend(layers, batch, n, values, kept)

    def codes(x):
        ratios, index = np.zeros((len(x), numbers)), np.zeros((1 + len(x), numbers), np.int64)

        def measure(rows, where, prior, posterior):
            ratios[rows, where] = posterior[1] / prior[1]
            return posterior[0]

        def put(rows, where, prior, posterior):
            cell = prior[1] * _width(index[0, where])
            found = np.clip(np.round((posterior[0] - prior[0]) / cell), -LIMIT, LIMIT)
            index[1 + rows.start : 1 + rows.stop, where] = found
            return prior[0] + cell * found

        each(x, measure)
        exponents = np.round(4 * np.log2(WIDEST / (step * np.sqrt((ratios**2).mean(0)))))
        index[0] = np.clip(exponents, 0, FINEST)
        each(x, put)
        return index

    def examples(index, seed=None):
        rng = None if seed is None else np.random.RandomState(seed)
        widths, found = _width(index[0]), []
        for start in range(1, len(index), batch):
            part = index[start : start + batch]

            def values(z, where, prior, part=part):
                if where.start < numbers:
                    return prior[0] + prior[1] * widths[where] * part[:, where]
                return prior[0] if rng is None else prior[0] + prior[1] * rng.standard_normal(prior[0].shape)

            found.append(np.asarray(decode(descend(layers, batch, len(part), values)))[: len(part)])
        return np.concatenate(found)

    return Lossy(codes, _cells_codec(numbers), examples)


def _width(exponents):
    """The widths of cells, in standard deviations of the prior."""
    return WIDEST * 2.0 ** (-exponents / 4)


def _cells_codec(numbers: int) -> Codec:
    """Of cells [1 + N, numbers] whose first row is one of widths: each number has its own scale, which goes along."""
    table = frequencies(np.zeros((2 * numbers, EXPONENTS)))

    def normal(scales, n):
        std = np.broadcast_to(LEAST_SCALE * 2.0 ** (scales / 2), (n, numbers)).ravel()
        return np.zeros_like(std), std, LIMIT

    def push(stack: Stack, codes: np.ndarray, given: Any = None) -> None:
        widths, index = codes[0], codes[1:]
        scales = _scales(index)
        stack.push_normal(index.ravel(), *normal(scales, len(index)))
        stack.push(np.concatenate([widths, scales]), table)

    def pop(stack: Stack, n: int, given: Any = None) -> np.ndarray:
        widths, scales = np.split(stack.pop(table), 2)
        return np.vstack([widths, stack.pop_normal(*normal(scales, n)).reshape(n, numbers)])

    return Codec(push, pop)


def _scales(index):
    """Of each number the scale under which its cells [N, numbers] are shortest."""
    lengths = []
    for exponent in range(2 * LIMIT.bit_length()):
        std = LEAST_SCALE * 2.0 ** (exponent / 2)
        mass = ndtr((index + 0.5) / std) - ndtr((index - 0.5) / std)
        lengths.append(-np.log2(np.maximum(mass, 2.0**-24)).sum(0))
    return np.argmin(lengths, 0)
