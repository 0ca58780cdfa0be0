"""Posteriors by their draws: a classifier against reference draws, and the band in which ranks of a calibrated one lie."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from dlvm_jax.evaluate import perceptron
from dlvm_jax.functional import calibration
from dlvm_jax.models.spaces import check_numbers

__all__ = ["LocalTest", "c2st", "ecdf_band", "lc2st", "nearest"]


def nearest(x: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    r"""How far data are from simulations: the distance of each x to the nearest one, in standard deviations of these.

    $d(x) = \min_i\sqrt{\sum_c\frac{(x_c-x_{ic})^2}{s_c^2}}$

    x: [N, C];  simulated: [S, C], whose columns have the standard deviations s; one that is constant counts as it is
    A posterior that was learned from simulations is extrapolated where none is near.  -> [N].
    Raises ValueError for other shapes, and for numbers that are not finite.
    """
    from sklearn.neighbors import NearestNeighbors

    x, simulated = np.asarray(x, np.float64), np.asarray(simulated, np.float64)
    if x.ndim != 2 or simulated.ndim != 2 or x.shape[1] != simulated.shape[1]:
        raise ValueError(f"x is [N, C] and simulated [S, C], got shapes {x.shape} and {simulated.shape}")
    if not (np.isfinite(x).all() and np.isfinite(simulated).all()):
        raise ValueError("x and simulated are finite numbers, got NaN or infinite ones")
    if not len(simulated):
        raise ValueError("the nearest of no simulations was asked for; give some")
    std = simulated.std(0)
    std = np.where(std > 0, std, 1)
    found = NearestNeighbors(n_neighbors=1).fit(simulated / std).kneighbors(x / std)
    return found[0][:, 0]


def c2st(draws: np.ndarray, reference: np.ndarray, seed: int = 1, folds: int = 5) -> float:
    r"""Classifier two-sample test: the accuracy of a network that tells draws from reference draws; 0.5 is the best.

    draws, reference: [N, D] each, as many of both

    The recipe of the published benchmark: both in units of the reference's mean and standard deviation; a perceptron of two ReLU
    layers of 10 D, Adam, at most 10,000 epochs; the mean accuracy of 5 shuffled folds.  There scikit-learn trains it, here
    `perceptron.fit`: the same steps with other random numbers, so that values agree in law, not bit for bit.  The best classifier
    of N(0, 1) and N(d, 1) has $\Phi(d/2)$.  Raises ValueError for other shapes, for NaN, and for numbers too large for float32.
    Source: Lueckmann et al. 2021; Lopez-Paz & Oquab 2017.
    """
    from sklearn.model_selection import KFold

    check_numbers(draws, "draws")
    check_numbers(reference, "reference")
    draws, reference = np.asarray(draws, np.float64), np.asarray(reference, np.float64)
    if draws.shape != reference.shape or draws.ndim != 2 or len(draws) < folds:
        raise ValueError(
            f"draws and reference are [N, D] of one shape, N at least {folds}, got {draws.shape} and {reference.shape}"
        )
    if not (np.isfinite(draws).all() and np.isfinite(reference).all()):
        raise ValueError("draws and reference are finite numbers, got NaN or infinite ones")
    mean, std = reference.mean(0), reference.std(0, ddof=1)
    std = np.where(std > 0, std, 1)
    both = jnp.asarray(np.concatenate([(draws - mean) / std, (reference - mean) / std]), jnp.float32)
    which = jnp.repeat(jnp.arange(2.0), len(draws))
    hidden, keys = (10 * draws.shape[1],) * 2, jax.random.split(jax.random.key(seed), folds)
    scores = []
    for key, (seen, held_out) in zip(
        keys, KFold(folds, shuffle=True, random_state=seed).split(both), strict=True
    ):
        layers, _ = perceptron.fit(key, both[seen], which[seen], hidden)
        said = perceptron.log_odds(layers, both[held_out]) > 0
        scores.append(float((said == which[held_out]).mean()))
    return float(np.mean(scores))


class LocalTest(NamedTuple):
    """The statistic of `lc2st`, 0 for the posterior and 1/4 at most, and its p-value."""

    statistic: float
    p_value: float


def lc2st(
    theta: np.ndarray,
    draws: np.ndarray,
    x: np.ndarray,
    local: np.ndarray,
    observation: np.ndarray,
    nulls: int = 20,
    seed: int = 1,
) -> LocalTest:
    r"""Local classifier two-sample test (L-C2ST): is q(theta | x) the posterior for one observation.

    theta, x: pairs of the joint, [N, D] and [N, C], on which q was not trained;  draws: one draw of q for each x, [N, D]
    local: draws of q for the observation, [S, D];  observation: [C]
    nulls: classifiers of shuffled classes

    A perceptron tells the pairs of draws from those of the joint.  Where it cannot at the observation, q is right there as far as
    it sees.  Its `calibration.local_c2st` is ranked among those of classifiers for which theta and its draw change places at
    random: under a right q the p-value is uniform on 1 / (nulls + 1), ..., 1.  Raises ValueError for other shapes.
    Source: Linhart, Gramfort, Rodrigues 2023.
    """
    from sklearn.neural_network import MLPClassifier

    theta, draws, x, local = (np.asarray(part, np.float64) for part in (theta, draws, x, local))
    observation = np.asarray(observation, np.float64)
    fit = theta.shape == draws.shape and len(x) == len(theta) and local.shape[1:] == theta.shape[1:]
    if not fit or observation.shape != x.shape[1:]:
        raise ValueError(
            "theta and draws are [N, D], x [N, C], local [S, D] and observation [C], got "
            f"{theta.shape}, {draws.shape}, {x.shape}, {local.shape}, {observation.shape}"
        )
    pairs = np.stack([np.concatenate([part, x], 1) for part in (draws, theta)])
    mean, std = pairs.mean((0, 1)), pairs.std((0, 1))
    std = np.where(std > 0, std, 1)
    there = np.concatenate([local, np.broadcast_to(observation, (len(local), len(observation)))], 1)
    width, random = 10 * theta.shape[1], np.random.RandomState(seed)

    def statistic(pairs):
        net = MLPClassifier(
            (width, width),
            alpha=0,
            max_iter=1000,
            early_stopping=True,
            n_iter_no_change=50,
            random_state=seed,
        )
        net.fit((pairs.reshape(-1, pairs.shape[-1]) - mean) / std, np.repeat([0, 1], len(theta)))
        probabilities = jnp.asarray(net.predict_proba((there - mean) / std))[:, 1]
        return float(calibration.local_c2st(probabilities))

    found = statistic(pairs)
    swap = random.rand(nulls, len(theta), 1) < 0.5
    others = [statistic(np.stack([np.where(s, pairs[1], pairs[0]), np.where(s, *pairs)])) for s in swap]
    return LocalTest(found, (1 + sum(other >= found for other in others)) / (nulls + 1))


def _inside(count: int, low: np.ndarray, high: np.ndarray, grid: np.ndarray) -> float:
    """Probability that at each point of a grid between low and high of so many uniform numbers lie at or below it."""
    reached, chance, before = np.zeros(1, int), np.ones(1), 0.0
    for point, least, most in zip(grid, low, high, strict=True):
        numbers = np.arange(least, most + 1)
        step = binom.pmf(numbers[:, None] - reached, count - reached, (point - before) / (1 - before))
        reached, chance, before = numbers, step @ chance, point
    return float(chance.sum())


def ecdf_band(count: int, grid: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    r"""The band in which the whole empirical distribution function of uniform numbers lies with a probability.

    count: N;  grid: points in (0, 1), ascending, [K];  level: of the band as a whole

    At each point it holds the same probability under $\mathrm{Binomial}(N, z_k)$, chosen so that all K hold at once with `level`,
    which is computed exactly, point after point.  Returns (low, high) [K] in shares of N.  Raises ValueError for another grid or
    level.
    Source: Sailynoja, Buerkner, Vehtari 2022 (the exact method).
    """
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or not len(grid) or not (np.diff(grid, prepend=0, append=1) > 0).all():
        raise ValueError("the grid is of ascending points between 0 and 1")
    if not 0 < level < 1 or count < 1:
        raise ValueError(f"the band is of a level in (0, 1) and at least one number, got {level} and {count}")

    def ends(outside):
        low, high = binom.ppf(outside / 2, count, grid), binom.ppf(1 - outside / 2, count, grid)
        return low.astype(int), high.astype(int)

    wide, narrow = math.log((1 - level) / len(grid) / 2), math.log(1 - level)
    for _ in range(20):  # outside of a wide band with probability below 1 - level
        middle = (wide + narrow) / 2
        if _inside(count, *ends(math.exp(middle)), grid) >= level:
            wide = middle
        else:
            narrow = middle
    low, high = ends(math.exp(wide))
    return low / count, high / count
