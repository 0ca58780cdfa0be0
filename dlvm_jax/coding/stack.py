"""A stack of symbols under integer frequencies: asymmetric numeral systems (Duda 2013), as `constriction` has them.

What is pushed last comes out first.  A symbol of frequency f costs log2(2^24 / f) bits.  Popping without having pushed draws a
symbol from the frequencies, with bits that the stack already holds: that is how bits come back.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

try:
    import constriction
except ImportError:  # an extra
    constriction: Any = None

__all__ = ["PRECISION", "Stack", "frequencies"]

PRECISION = 24  # bits of a whole table
_FACTORS = 0x9E3779, 0x85EBCB  # odd, so that multiplying by them can be undone


def frequencies(log_probs: ArrayLike) -> np.ndarray:
    """Integer frequencies [*, L], each at least 1, that sum to 2^24: those of probabilities exp(log_probs) [*, L].

    What rounding leaves over goes to the most probable level.  Raises ValueError for NaN, and for tables without a level.
    """
    wide = np.asarray(log_probs, np.float64)
    levels = wide.shape[-1]
    highest = wide.max(-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError("a table of probabilities holds NaN or no probability at all; the model cannot code")
    p = np.exp(wide - highest)
    p /= p.sum(-1, keepdims=True)
    found = np.floor(p * (2**PRECISION - levels)).astype(np.int64) + 1
    best = p.argmax(-1)[..., None]
    rest = 2**PRECISION - found.sum(-1, keepdims=True)
    np.put_along_axis(found, best, np.take_along_axis(found, best, -1) + rest, -1)
    return found


class Stack:
    """A coder of asymmetric numeral systems.

    words: what it holds at first, 32-bit words; none: it is empty
    seal:  whether those words may be any, as random ones are; without it they are those of `words()`
    """

    def __init__(self, words: np.ndarray | None = None, seal: bool = False):
        if constriction is None:
            raise ValueError("entropy coding needs constriction: pip install 'dlvm_jax[coding]'")
        stream: Any = constriction.stream
        models, stack = stream.model, stream.stack
        self._coder = stack.AnsCoder() if words is None else stack.AnsCoder(np.array(words, np.uint32), seal)
        self._categorical = models.Categorical(perfect=False)
        self._gaussian = models.QuantizedGaussian
        self._uniform = models.Uniform(2**PRECISION)

    def push(self, symbols: np.ndarray, table: np.ndarray) -> None:
        """Put symbols [n] on the stack, under frequencies [n, L]; the first will come out first."""
        self._coder.encode_reverse(_integers(symbols), self._categorical, _weights(table))

    def pop(self, table: np.ndarray) -> np.ndarray:
        """Take symbols [n] off the stack, under frequencies [n, L]."""
        return self._coder.decode(self._categorical, _weights(table))

    def push_normal(self, symbols: np.ndarray, mean: np.ndarray, std: np.ndarray, limit: int) -> None:
        """Put integers [n] within +-limit on the stack, under N(mean, std^2) of the cells of width 1 about them."""
        self._coder.encode_reverse(_integers(symbols), self._gaussian(-limit, limit), *_doubles(mean, std))

    def pop_normal(self, mean: np.ndarray, std: np.ndarray, limit: int) -> np.ndarray:
        """Take integers [n] within +-limit off the stack, under N(mean, std^2) of the cells of width 1 about them."""
        return self._coder.decode(self._gaussian(-limit, limit), *_doubles(mean, std))

    def stir(self, count: int, back: bool = False) -> None:
        """Put as many pieces of 24 bits through a fixed permutation, or all there are; `back` undoes it.

        Popping reads bits as a source of chance.  Those of symbols that were pushed under another law than their own are not
        evenly distributed; stirred they look so.
        """
        pieces = self._coder.decode(self._uniform, min(count, self.bits // PRECISION)).astype(np.int64)
        for factor in _FACTORS[:: -1 if back else 1]:
            if back:
                pieces ^= pieces >> PRECISION // 2
                pieces = pieces * pow(factor, -1, 2**PRECISION) % 2**PRECISION
            else:
                pieces = pieces * factor % 2**PRECISION
                pieces ^= pieces >> PRECISION // 2
        self._coder.encode_reverse(_integers(pieces), self._uniform)

    @property
    def bits(self) -> int:
        """The length of what the stack holds."""
        return self._coder.num_valid_bits()

    def words(self, unseal: bool = False) -> np.ndarray:
        """What the stack holds, as 32-bit words; with `unseal` the words that it was made of with `seal`.

        Raises ValueError where nothing that was sealed is left.
        """
        try:
            return self._coder.get_compressed(unseal)
        except Exception as error:  # a type of its own, from Rust
            raise ValueError(
                "the bits that the stream began with do not come back; it is of another model"
            ) from error


def _integers(symbols):
    return np.ascontiguousarray(symbols, np.int32)


def _doubles(*arrays):
    return (np.ascontiguousarray(array, np.float64) for array in arrays)


def _weights(table):
    """Numbers in proportion to which constriction shares out what is left when each level has frequency 1: all exact."""
    return (table - 1).astype(np.float64)
