r"""Is a posterior calibrated: ranks of true parameters among posterior draws, their tests, coverage, and what data have told.

For each of N pairs $(\theta,x)$ of the joint, S draws are made from $q(\theta\mid x)$.  If q is the posterior, the rank of any
statistic of $\theta$ among those of the draws is uniform on 0..S: of each coordinate (simulation-based calibration), of the
distance to a reference point (TARP), of $-\log q$ (the coverage of highest-density regions).
"""

import jax.numpy as jnp
from jax.scipy.special import gammaincc

from dlvm_jax.functional.numerics import as_integer, as_wide, norm
from dlvm_jax.functional.types import Array, Numeric

__all__ = [
    "contraction",
    "coverage",
    "distances",
    "local_c2st",
    "predictive_p_value",
    "rank",
    "rank_uniformity",
    "z_score",
]


def rank(truth: Array, draws: Array) -> Array:
    r"""Rank of a true value among draws, the statistic of simulation-based calibration.

    $r = \sum_{s=1}^S1[\theta_s < \theta]$

    Draws from the posterior make it uniform on 0..S.  Draws that are too narrow put it at both ends, too wide ones in the middle.
    Shapes: `truth` [*batch], `draws` [S, *batch] -> [*batch] integers.  Raises ValueError for other shapes.
    Source: Talts et al. 2018.

    >>> rank(jnp.array([0.5, 3.0]), jnp.array([[0.0, 0.0], [1.0, 1.0]])).tolist()
    [1, 2]
    """
    truth, draws = as_wide(truth, draws)
    if draws.shape[1:] != truth.shape or draws.ndim == 0:
        raise ValueError(
            f"draws are [S, *batch] for truth [*batch], got shapes {draws.shape} and {truth.shape}"
        )
    return jnp.sum(draws < truth, axis=0)


def distances(theta: Array, references: Array, scale: Numeric = 1.0) -> Array:
    r"""Distances to reference points, whose ranks are the credibilities of TARP.

    $d(\theta,r) = \sqrt{\sum_i(\theta_i-r_i)^2/s_i^2}$

    A reference may depend on x, not on theta.  Ranks of distances to references that do depend on x are uniform for all of them
    only if q is the posterior.  A unit for each coordinate serves theta and references alike.
    Shapes: `theta` [*batch, D], `references` alike or broadcast, `scale` scalar or [D] -> [*batch].
    Source: Lemos et al. 2023.

    >>> float(distances(jnp.array([3.0, 8.0]), jnp.zeros(2), jnp.array([1.0, 2.0])))
    5.0
    """
    theta, references, scale = as_wide(theta, references, scale)
    return norm((theta - references) / scale)


def rank_uniformity(ranks: Array, draws: int, bins: int) -> tuple[Array, Array]:
    r"""Pearson's test of whether N ranks are uniform on 0..S.

    $\chi^2 = \sum_{b=1}^B\frac{(n_b-N/B)^2}{N/B},\quad p = P(\chi^2_{B-1} > \chi^2)$

    Bins hold (S + 1) / B values each.  The law of the statistic is exact for large N; five ranks a bin are enough.
    draws: S;  bins: B, a divisor of S + 1, at least two.
    Shapes: `ranks` [N, *batch] -> (statistic, p-value), [*batch] each.  Raises ValueError for a B that is no divisor.
    Source: Pearson 1900; Talts et al. 2018 (the histogram of ranks).

    >>> [round(float(value), 3) for value in rank_uniformity(jnp.array([0, 1, 2, 3]), 3, 2)]
    [0.0, 1.0]
    """
    ranks, draws, bins = as_wide(ranks), as_integer(draws, "draws"), as_integer(bins, "bins")
    if bins < 2 or (draws + 1) % bins:
        raise ValueError(f"bins={bins} cannot share ranks 0..{draws} evenly; take a divisor of {draws + 1}")
    place = jnp.floor((ranks + 0.5) * (bins / (draws + 1)))
    counts = jnp.stack([jnp.sum(place == b, axis=0) for b in range(bins)])
    expected = ranks.shape[0] / bins
    statistic = jnp.sum(jnp.square(counts - expected), axis=0) / expected
    return statistic, gammaincc(0.5 * (bins - 1), 0.5 * statistic)


def coverage(ranks: Array, draws: int, levels: Array) -> Array:
    r"""Expected coverage: how often the truth lies in the credible region of a level.

    $c(\alpha) = \frac1N\sum_{n=1}^N1[r_n < \alpha(S+1)]$

    Ranks of -log q are of highest-density regions, ranks of `distances` of TARP's balls.  Uniform ranks give c = alpha where
    alpha (S + 1) is an integer.  For highest-density regions c < alpha says overconfident.
    draws: S.
    Shapes: `ranks` [N, *batch], `levels` [L] -> [L, *batch].
    Source: Hermans et al. 2022; Lemos et al. 2023.

    >>> coverage(jnp.array([0, 1, 2, 3]), 3, jnp.array([0.5, 1.0])).tolist()
    [0.5, 1.0]
    """
    ranks, levels = as_wide(ranks, levels)
    ends = jnp.ceil(
        levels * (as_integer(draws, "draws") + 1) - 1e-3
    )  # 0.9 of 1000 is a little above 900 in float32
    return jnp.mean(ranks < ends.reshape(-1, *(1,) * ranks.ndim), axis=1)


def contraction(prior_std: Array, posterior_std: Array) -> Array:
    r"""Posterior contraction: the share of the prior's variance that the data have taken away.

    $1 - \sigma_{post}^2/\sigma_{prior}^2$

    Shapes: `prior_std`, `posterior_std` broadcast -> same.  Source: Schad, Betancourt, Vasishth 2021 (posterior contraction).

    >>> float(contraction(jnp.float32(2.0), jnp.float32(1.0)))
    0.75
    """
    prior_std, posterior_std = as_wide(prior_std, posterior_std)
    return 1 - jnp.square(posterior_std / prior_std)


def z_score(truth: Array, posterior_mean: Array, posterior_std: Array) -> Array:
    r"""Posterior z-score: by how many of its standard deviations the posterior misses the truth.

    $z = (\mathbb E[\theta\mid x]-\theta)/\sigma_{post}$

    Shapes: all broadcast -> same.  Source: Schad, Betancourt, Vasishth 2021 (posterior z-scores).

    >>> float(z_score(jnp.float32(1.0), jnp.float32(2.0), jnp.float32(0.5)))
    2.0
    """
    truth, mean, std = as_wide(truth, posterior_mean, posterior_std)
    return (mean - truth) / std


def local_c2st(probabilities: Array) -> Array:
    r"""The statistic of the local classifier two-sample test (L-C2ST): is the posterior right for this observation.

    $t(x_o) = \frac1S\sum_{s=1}^S\big(d(\theta_s,x_o)-\tfrac12\big)^2,\quad \theta_s\sim q(\theta\mid x_o)$

    d is the probability, by a classifier of pairs from $q(\theta\mid x)p(x)$ and from the joint, of one of the two.  It is 1/2
    where they agree.  Classifiers of shuffled classes give the statistic's law under agreement.
    Shapes: `probabilities` [S, *batch] -> [*batch].  Source: Linhart, Gramfort, Rodrigues 2023.

    >>> float(local_c2st(jnp.array([0.5, 1.0])))
    0.125
    """
    return jnp.mean(jnp.square(as_wide(probabilities) - 0.5), axis=0)


def predictive_p_value(observed: Array, replicated: Array) -> Array:
    r"""Two-sided posterior predictive p-value of statistics of the data.

    $p = \min\Big(1, \frac2{S+1}\big(1+\min(\#\{s: T_s\le T\}, \#\{s: T_s\ge T\})\big)\Big),\quad
        T_s = T(x_s),\ x_s\sim p(x\mid\theta_s),\ \theta_s\sim p(\theta\mid x_o)$

    Were the observation simulated as the replicates are, p would be at most alpha with probability at most alpha.
    Shapes: `observed` [*batch], `replicated` [S, *batch] -> [*batch].  Source: Rubin 1984; Gelman, Meng, Stern 1996.

    >>> predictive_p_value(jnp.array([0.5, 9.0]), jnp.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])).tolist()
    [1.0, 0.5]
    """
    observed, replicated = as_wide(observed, replicated)
    below = jnp.sum(replicated <= observed, axis=0)
    above = jnp.sum(replicated >= observed, axis=0)
    p_value = jnp.minimum(1.0, 2 / (replicated.shape[0] + 1) * (1 + jnp.minimum(below, above)))
    return jnp.where(jnp.isnan(observed), jnp.nan, p_value)
