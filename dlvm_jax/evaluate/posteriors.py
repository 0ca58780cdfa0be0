"""Posteriors by their draws: a classifier against reference draws, and the band in which ranks of a calibrated one lie."""

import math
import warnings

import numpy as np
from scipy.stats import binom

from dlvm_jax.models.spaces import check_numbers

__all__ = ["c2st", "ecdf_band"]


def c2st(draws: np.ndarray, reference: np.ndarray, seed: int = 1, folds: int = 5) -> float:
    r"""Classifier two-sample test: the accuracy of a network that tells draws from reference draws; 0.5 is the best.

    draws, reference: [N, D] each, as many of both

    The recipe of the published benchmark: both in units of the reference's mean and standard deviation; a perceptron of two ReLU
    layers of 10 D, Adam, at most 10,000 epochs; the mean accuracy of 5 shuffled folds.  The best classifier of N(0, 1) and
    N(d, 1) has $\Phi(d/2)$.  Raises ValueError for other shapes, and for NaN.
    Source: Lueckmann et al. 2021, appendix M; Lopez-Paz & Oquab 2017.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

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
    both = np.concatenate([(draws - mean) / std, (reference - mean) / std])
    which = np.repeat([0, 1], len(draws))
    width = 10 * draws.shape[1]
    net = MLPClassifier((width, width), solver="adam", max_iter=10_000, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_score(
            net, both, which, cv=KFold(folds, shuffle=True, random_state=seed), scoring="accuracy"
        )
    return float(scores.mean())


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
    Source: Sailynoja, Buerkner, Vehtari 2022, section 2 (the exact method).
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
