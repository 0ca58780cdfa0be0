"""The classifier test against the best classifier's accuracy, the band of distribution functions against simulation."""

import numpy as np
import pytest
import scipy.stats

from dlvm_jax.evaluate import posteriors


def test_c2st_is_the_accuracy_of_the_best_classifier():
    """N(0, 1) and N(d, 1): Phi(d / 2), within 5 standard errors of 2,000 examples and .01 for the network; in any units."""
    rng = np.random.RandomState(0)
    reference = rng.randn(1000, 1)
    for shift in (0.0, 2.0):
        value = posteriors.c2st(100 + 9 * (rng.randn(1000, 1) + shift), 100 + 9 * reference)
        best = scipy.stats.norm.cdf(shift / 2)
        assert abs(value - best) < 5 * np.sqrt(best * (1 - best) / 2000) + 0.01
    flat = np.column_stack([reference, np.ones(1000)])  # one number of the reference never changes
    for shift in np.diag([5, 5]):
        assert posteriors.c2st(flat + shift, flat) > 0.95
    with pytest.raises(ValueError, match=r"of one shape, N at least 5, got \(4, 1\) and \(1000, 1\)"):
        posteriors.c2st(reference[:4], reference)
    with pytest.raises(ValueError, match="got NaN or infinite ones"):
        posteriors.c2st(np.full((1000, 1), np.nan), reference)


def test_the_band_holds_whole_functions_at_its_level():
    """Of 4,000 samples of 50 numbers 90 % lie in it everywhere, within 5 standard errors; the level is met from above."""
    grid = np.arange(1, 20) / 20
    low, high = posteriors.ecdf_band(50, grid, 0.9)
    samples = np.random.RandomState(0).rand(4000, 50)
    functions = (samples[:, :, None] <= grid).mean(1)
    inside = ((functions >= low - 1e-9) & (functions <= high + 1e-9)).all(1).mean()
    assert 0.9 - 5 * np.sqrt(0.09 / 4000) < inside < 0.93 + 5 * np.sqrt(0.09 / 4000)
    pointwise = scipy.stats.binom.ppf(0.95, 50, grid) / 50
    assert (high >= pointwise).all() and (high > pointwise).any()
    # one point: the binomial's own interval
    low, high = posteriors.ecdf_band(50, np.array([0.5]), 0.9)
    law = scipy.stats.binom(50, 0.5)
    assert law.cdf(50 * high[0]) - law.cdf(50 * low[0] - 1) >= 0.9
    with pytest.raises(ValueError, match="ascending points between 0 and 1"):
        posteriors.ecdf_band(50, np.array([0.5, 0.2]))


def test_the_local_test_finds_where_a_posterior_is_wrong():
    """x ~ N(0, 2), theta | x ~ N(x / 2, 1 / 2); a q that is shifted for x > 0 alone fails at x = 1.5.

    Of the exact q the p-value is one of 1/5 ... 1, each as often: it is not the smallest, as of one seed in five it would be.
    """
    rng = np.random.RandomState(0)
    theta = rng.randn(1000, 1)
    x = theta + rng.randn(1000, 1)
    exact = x / 2 + np.sqrt(0.5) * rng.randn(1000, 1)
    local = 0.75 + np.sqrt(0.5) * rng.randn(500, 1)
    test = lambda draws, local: posteriors.lc2st(theta, draws, x, local, np.array([1.5]), nulls=4)
    found = test(exact + 1.0 * (x > 0), local + 1)
    assert found.p_value == pytest.approx(0.2) and found.statistic > 0.02
    assert test(exact, local).p_value > 0.2
    with pytest.raises(ValueError, match=r"theta and draws are \[N, D\].*got \(1000, 1\), \(3, 1\)"):
        posteriors.lc2st(theta, exact[:3], x, local, np.zeros(1))
    with pytest.raises(ValueError, match=r"and observation \[C\], got .*, \(2,\)"):
        posteriors.lc2st(theta, exact, x, local, np.zeros(2))


def test_the_nearest_simulation_is_found_in_standard_deviations():
    """Of a grid with the standard deviations 1 and 5 in the first two numbers, and a constant third."""
    simulated = np.array([[-1, 5, 2], [1, 5, 2], [-1, -5, 2], [1, -5, 2]], np.float32)
    x = np.array([[1, 5, 2], [4, -25, 2], [0, 0, 2.5]])
    np.testing.assert_allclose(posteriors.nearest(x, simulated), [0, 5, 1.5])
    with pytest.raises(
        ValueError, match=r"x is \[N, C\] and simulated \[S, C\], got shapes \(3, 2\) and \(4, 3\)"
    ):
        posteriors.nearest(x[:, :2], simulated)
    with pytest.raises(ValueError, match="got NaN or infinite ones"):
        posteriors.nearest(np.full((1, 3), np.nan), simulated)
