r"""Have Markov chains mixed, and how many independent draws are they worth: split R-hat and the effective sample size.

Draws are [M, N, *batch]: M chains of N draws each, after their warm-up.  Each chain is cut into halves, so that one that still
moves to another place counts as two that disagree.  Of the $C = 2M$ halves of $n = \lfloor N/2\rfloor$ draws W is the mean
variance, B is n times the variance of the means.
"""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array

__all__ = ["effective_sample_size", "split_r_hat"]


def _halves(draws: Array) -> tuple[Array, Array, Array]:
    """The halves of the chains [C, n, *batch], their W and the variance that B adds to, [*batch] each."""
    if draws.ndim < 2 or draws.shape[1] < 4:
        raise ValueError(f"chains are [M, N, *batch] of at least four draws each, got shape {draws.shape}")
    draws = draws - draws[:1, :1]  # draws that are all the same become zero, and their variances exactly so
    length = draws.shape[1] // 2
    halves = jnp.concatenate([draws[:, :length], draws[:, length : 2 * length]])
    within = jnp.var(halves, axis=1, ddof=1).mean(0)
    return halves, within, (1 - 1 / length) * within + jnp.var(halves.mean(1), axis=0, ddof=1)


def split_r_hat(draws: Array) -> Array:
    r"""How far chains disagree: the potential scale reduction of their halves.

    $\hat R = \sqrt{\frac{\frac{n-1}nW+\frac1nB}W}$

    It is near 1 where the chains have mixed.  Chains that keep to modes of their own have a large one, even where each mode has
    its share of them.
    Shapes: `draws` [M, N, *batch] -> [*batch]; NaN for draws that are all the same.  Raises ValueError for fewer than four draws.
    Source: Gelman & Rubin 1992; Vehtari et al. 2021 (of halves, without ranks).

    >>> round(float(split_r_hat(jnp.array([[0.0, 1.0, 0.0, 1.0], [1.0, 2.0, 1.0, 2.0]]))), 4)
    1.0801
    """
    _, within, total = _halves(as_wide(draws))
    return jnp.sqrt(total / within)


def effective_sample_size(draws: Array) -> Array:
    r"""How many independent draws would give a mean as exact as that of the chains.

    $\frac{Cn}{-1+2\sum_{k=0}^K\hat P_k},\quad \hat P_k = \min_{j\le k}(\hat\rho_{2j}+\hat\rho_{2j+1}),\quad
        \hat\rho_t = 1-\frac{W-\frac1C\sum_c\gamma_c(t)}{\frac{n-1}nW+\frac1nB}$

    $\gamma_c(t)$ is the autocovariance of a half at lag t, $\hat\rho_0 = 1$.  K is the last before one that is not positive.
    A chain with autocorrelations $\rho^t$ is worth $Cn\frac{1-\rho}{1+\rho}$ draws; one that swings is worth more than it has, at
    most $Cn\log_{10}(Cn)$.
    Shapes: `draws` [M, N, *batch] -> [*batch]; NaN for draws that are all the same.  Raises ValueError for fewer than four draws.
    Source: Geyer 1992 (initial monotone sequence); Vehtari et al. 2021 (section 3.2: several chains).

    >>> round(float(effective_sample_size(jax.random.normal(jax.random.key(0), (4, 1000)))), -3)
    4000.0
    """
    halves, within, total = _halves(as_wide(draws))
    chains, length = halves.shape[:2]
    spectrum = jnp.fft.rfft(halves - halves.mean(1, keepdims=True), 2 * length, axis=1)
    covariance = jnp.fft.irfft(jnp.square(jnp.abs(spectrum)), 2 * length, axis=1)[:, :length] / length
    correlation = (1 - (within - covariance.mean(0)) / total).at[0].set(1.0)
    pairs = correlation[: length // 2 * 2].reshape(length // 2, 2, *total.shape).sum(1)
    before = jnp.cumsum(pairs <= 0, axis=0) == 0
    time = 2 * jnp.where(before, jax.lax.cummin(pairs, axis=0), 0).sum(0) - 1
    size = chains * length
    return jnp.where(total > 0, size / jnp.maximum(time, 1 / math.log10(size)), jnp.nan)
