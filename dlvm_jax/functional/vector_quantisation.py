"""Vector quantisation: the nearest code of a book, gradients past it, training of the book, quantisation without one."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.numerics import as_integer, as_wide, norm, sum_event
from dlvm_jax.functional.types import Array, Key, Numeric

__all__ = [
    "Averages",
    "codebook_loss",
    "codes_of",
    "commitment_loss",
    "finite_scalar",
    "finite_scalar_code",
    "finite_scalar_index",
    "moving_averages",
    "nearest_codes",
    "perplexity",
    "restart",
    "rotation",
    "straight_through",
]


class Averages(NamedTuple):
    """A code book by moving averages: how many vectors each code was given [K], and their sum [K, D]."""

    counts: Array
    sums: Array


def _check_book(z, codes):
    if codes.ndim != 2 or z.shape[-1:] != codes.shape[-1:]:
        raise ValueError(
            f"vectors [*batch, D] go with a code book [K, D], got arrays of shape {z.shape} and {codes.shape}"
        )


def nearest_codes(z: Array, codes: Array) -> Array:
    r"""The index of the nearest code of each vector; of several as near, the first.

    $k(z) = \arg\min_k\|z-e_k\|^2$

    Sums of squared differences: the expanded square would cancel where codes lie far from zero.
    Shapes: `z` [*batch, D], `codes` [K, D] -> [*batch], integers.  Raises ValueError for other shapes.
    Source: van den Oord et al. 2017, eq. 1.

    >>> nearest_codes(jnp.array([[0.2], [0.9]]), jnp.array([[0.0], [1.0]]))
    Array([0, 1], dtype=int32)
    """
    z, codes = as_wide(z, codes)
    _check_book(z, codes)
    return jnp.argmin(jnp.sum(jnp.square(z[..., None, :] - codes), axis=-1), axis=-1)


def straight_through(z: Array, code: Array) -> Array:
    r"""The code, with the gradient of the vector that it stands for.

    $\mathrm{sg}(e) + z - \mathrm{sg}(z)$

    Its value is the code to the last bit.
    Shapes: `z`, `code` [*batch, D] -> the same.  Source: van den Oord et al. 2017, section 3.2.

    >>> jax.grad(lambda z: straight_through(z, 5.0) ** 2)(1.0)
    Array(10., dtype=float32, weak_type=True)
    """
    z, code = as_wide(z, code)
    return jax.lax.stop_gradient(code) + (z - jax.lax.stop_gradient(z))


def rotation(z: Array, code: Array) -> Array:
    r"""The code as a rotated and stretched vector, whose gradient turns with it.

    $\mathrm{sg}\big(\tfrac{\|e\|}{\|z\|}R\big)z,\quad R = I - 2rr^\top + 2\hat e\hat z^\top,\quad
      r = \tfrac{\hat e+\hat z}{\|\hat e+\hat z\|}$

    R rotates the direction of z into that of e.  Where one is zero, or they are opposite, there is
    no such plane: the code is passed straight through.
    Shapes: `z`, `code` [*batch, D] -> the same.  Source: Fifty et al. 2024, section 4.2.

    >>> rotation(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]))
    Array([0., 2.], dtype=float32)
    """
    z, code = as_wide(z, code)
    length, target = norm(z)[..., None], norm(code)[..., None]
    known = (length > 0) & (target > 0)
    unit = lambda x, size: x / jnp.where(known, size, 1.0)
    from_, to = unit(z, length), unit(code, target)
    between = from_ + to
    square = jnp.sum(jnp.square(between), axis=-1, keepdims=True)
    opposite = square < 1e-12  # many planes contain both, and none is better
    square, stretch = jnp.where(opposite, 1.0, square), target / jnp.where(known, length, 1.0)
    constants = jax.lax.stop_gradient((from_, to, between, square, stretch))
    from_, to, between, square, stretch = constants
    along = lambda a: jnp.sum(a * z, axis=-1, keepdims=True)
    turned = stretch * (z - 2 * between * along(between) / square + 2 * to * along(from_))
    return jnp.where(known & ~opposite, turned, straight_through(z, code))


def codebook_loss(z: Array, code: Array) -> Array:
    r"""What moves codes to the vectors that they stand for.

    $\|\mathrm{sg}(z) - e\|^2$

    Shapes: `z`, `code` [*batch, D] -> [*batch].  Source: van den Oord et al. 2017, eq. 3, second term.

    >>> codebook_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0]))
    Array(5., dtype=float32)
    """
    z, code = as_wide(z, code)
    return sum_event(jnp.square(jax.lax.stop_gradient(z) - code), 1)


def commitment_loss(z: Array, code: Array) -> Array:
    r"""What holds vectors to the codes that stand for them.

    $\|z - \mathrm{sg}(e)\|^2$

    Shapes: `z`, `code` [*batch, D] -> [*batch].  Source: van den Oord et al. 2017, eq. 3, third term (there times .25).

    >>> commitment_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0]))
    Array(5., dtype=float32)
    """
    return codebook_loss(code, z)


def moving_averages(averages: Averages, z: Array, index: Array, decay: Numeric) -> Averages:
    r"""One step of a code book that follows the vectors it was given.

    $N_k \leftarrow \gamma N_k + (1-\gamma)n_k,\quad m_k\leftarrow\gamma m_k + (1-\gamma)\sum_{i:\,k(z_i)=k}z_i$

    With $\gamma = 0$ the codes $m_k/N_k$ are those of one step of Lloyd's algorithm.
    Shapes: `z` [N, D], `index` [N] -> averages of the same shapes.  Source: van den Oord et al. 2017, appendix A.1.

    >>> moving_averages(Averages(jnp.ones(2), jnp.ones((2, 1))), jnp.array([[3.0]]), jnp.array([1]), 0.5)
    Averages(counts=Array([0.5, 1. ], dtype=float32), sums=Array([[0.5],
           [2. ]], dtype=float32))
    """
    counts, sums, z = as_wide(averages.counts, averages.sums, z)
    given = jax.nn.one_hot(index, len(counts), dtype=z.dtype)
    mix = lambda old, new: decay * old + (1 - decay) * new
    return Averages(
        mix(counts, given.sum(0)), mix(sums, jnp.einsum("nk,nd->kd", given, z, precision="highest"))
    )


def codes_of(averages: Averages, before: Array) -> Array:
    r"""The codes of moving averages; a code that was given nothing stays where it was.

    $e_k = m_k / N_k$

    Shapes: `before` [K, D], the codes until now -> [K, D].  Source: van den Oord et al. 2017, appendix A.1.

    >>> codes_of(Averages(jnp.array([2.0, 0.0]), jnp.array([[3.0], [0.0]])), jnp.zeros((2, 1)))
    Array([[1.5],
           [0. ]], dtype=float32)
    """
    counts, sums, before = as_wide(averages.counts, averages.sums, before)
    used = counts[:, None] > 1e-10
    return jnp.where(used, sums / jnp.where(used, counts[:, None], 1.0), before)


def restart(key: Key, codes: Array, counts: Array, z: Array, least: Numeric) -> tuple[Array, Array]:
    r"""Codes that are hardly used are put onto vectors of the batch, drawn at random.

    $N_k < N_{\min}:\ e_k \leftarrow z_i,\ i\sim U\{1..N\}$

    Shapes: `codes` [K, D], `counts` [K], `z` [N, D] -> (codes [K, D], whether each was put elsewhere [K]).
    Source: Williams et al. 2020, section 3.

    >>> restart(jax.random.key(0), jnp.zeros((2, 1)), jnp.array([5.0, 0.0]), jnp.array([[7.0]]), 1.0)
    (Array([[0.],
           [7.]], dtype=float32), Array([False,  True], dtype=bool))
    """
    codes, counts, z = as_wide(codes, counts, z)
    dead = counts < least
    drawn = z[jax.random.randint(key, (len(codes),), 0, len(z))]
    return jnp.where(dead[:, None], drawn, codes), dead


def perplexity(counts: Array) -> Array:
    r"""How many codes are in use, if all were used alike.

    $\exp\big(-\sum_k p_k\log p_k\big),\quad p_k = N_k/\sum_j N_j$

    Shapes: `counts` [K] -> a number from 1 to K; NaN where nothing was counted.  Source: Shannon 1948, section 6.

    >>> perplexity(jnp.array([2.0, 2.0, 0.0]))
    Array(2., dtype=float32)
    """
    counts = as_wide(counts)
    p = counts / counts.sum(-1, keepdims=True)
    return jnp.exp(-jax.scipy.special.xlogy(p, p).sum(-1))


def _levels(levels, dim):
    levels = [as_integer(count, "the number of levels") for count in levels]
    if len(levels) != dim or min(levels) < 2:
        raise ValueError(
            f"finite scalar quantisation takes two levels or more for each of the {dim} elements, got {levels}"
        )
    return np.array(levels)


def finite_scalar(z: Array, levels: Sequence[int]) -> Array:
    r"""Each element on one of a few levels in [-1, 1], with a straight-through gradient: a grid in place of a code book.

    $\hat z_i = \tfrac{2}{L_i-1}\,\mathrm{round}\big(\tfrac{L_i-1}2(\tanh z_i + 1)\big) - 1$

    Shapes: `z` [*batch, D], `levels` D numbers -> [*batch, D].  Raises ValueError for other numbers of levels.
    Source: Mentzer et al. 2023, section 3.1; there an even number of levels lies unevenly about zero.

    >>> finite_scalar(jnp.array([-9.0, 0.1, 9.0]), (2, 3, 4))
    Array([-1.,  0.,  1.], dtype=float32)
    """
    z = as_wide(z)
    half = (_levels(levels, z.shape[-1]) - 1) / 2
    bounded = jnp.tanh(z)
    return straight_through(bounded, jnp.round(half * (bounded + 1)) / half - 1)


def finite_scalar_index(code: Array, levels: Sequence[int]) -> Array:
    r"""The number of each grid point of `finite_scalar`, 0 to $\prod_i L_i - 1$; the last element counts fastest.

    $k = \sum_i d_i\prod_{j>i}L_j,\quad d_i = \tfrac{L_i-1}2(\hat z_i+1)$

    Shapes: `code` [*batch, D] -> [*batch], integers.  Raises ValueError for other numbers of levels.
    Source: Mentzer et al. 2023, section 3.

    >>> finite_scalar_index(jnp.array([1.0, 0.0]), (2, 3))
    Array(4, dtype=int32)
    """
    code = as_wide(code)
    levels_ = _levels(levels, code.shape[-1])
    digits = jnp.round((levels_ - 1) / 2 * (code + 1)).astype(jnp.int32)
    return jnp.sum(digits * _places(levels_), axis=-1)


def finite_scalar_code(index: Array, levels: Sequence[int]) -> Array:
    r"""The grid point of a number: the inverse of `finite_scalar_index`.

    $\hat z_i = \tfrac{2}{L_i-1}d_i - 1,\quad d_i = \lfloor k / \prod_{j>i}L_j\rfloor \bmod L_i$

    Shapes: `index` [*batch], `levels` D numbers -> [*batch, D].  Raises ValueError for fewer than two levels.
    Source: Mentzer et al. 2023, section 3.

    >>> finite_scalar_code(jnp.array(4), (2, 3))
    Array([1., 0.], dtype=float32)
    """
    levels_ = _levels(levels, len(levels))
    digits = jnp.floor(as_wide(index)[..., None] / _places(levels_)) % levels_
    return digits / ((levels_ - 1) / 2) - 1


def _places(levels):
    """What one step of each element counts."""
    return np.append(np.cumprod(levels[:0:-1])[::-1], 1)
