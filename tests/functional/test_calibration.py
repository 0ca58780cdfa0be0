"""Statistics of calibration on the Gaussian posterior N(x / 2, 1 / 2) of theta ~ N(0, 1), x ~ N(theta, 1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dlvm_jax.functional import calibration
from tests.functional.common import checks

PAIRS, DRAWS, DIM = 2000, 99, 2
LEVELS = jnp.array([0.5, 0.9])


@jax.jit
def ranks(shift, scale):
    """Ranks of coordinates, of distances to references that depend on x, and of -log q: [PAIRS, 4].

    shift, scale: how the posterior that is drawn from differs, in its own standard deviations
    """
    keys = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(keys[0], (PAIRS, DIM))
    x = theta + jax.random.normal(keys[1], (PAIRS, DIM))
    noise = jax.random.normal(keys[2], (DRAWS, PAIRS, DIM))
    centre, std = x / 2 + shift * jnp.sqrt(0.5), scale * jnp.sqrt(0.5)
    draws = centre + std * noise
    reference = jnp.roll(x, 1, -1)
    away = lambda value: calibration.distances(value, reference, 1.3)
    minus_log_q = lambda value: jnp.square((value - centre) / std).sum(-1)
    columns = [
        *jnp.moveaxis(calibration.rank(theta, draws), -1, 0),
        calibration.rank(away(theta), away(draws)),
        calibration.rank(minus_log_q(theta), minus_log_q(draws)),
    ]
    return jnp.stack(columns, -1)


@checks(calibration.rank)
def test_the_exact_posterior_has_uniform_ranks_and_others_have_not():
    """False alarm 4e-4 for the exact one; half a standard deviation to the side fails all of SBC and TARP."""
    p = lambda *wrong: np.asarray(calibration.rank_uniformity(ranks(*wrong), DRAWS, 20)[1])
    assert (p(0.0, 1.0) > 1e-4).all()
    assert (p(0.5, 1.0) < 1e-4).all()
    assert (p(0.0, 0.5) < 1e-10)[[0, 1, 3]].all() and (p(0.0, 2.0) < 1e-10)[[0, 1, 3]].all()
    truth, draws = np.random.RandomState(0).randn(3, 2), np.random.RandomState(1).randn(7, 3, 2)
    np.testing.assert_array_equal(calibration.rank(truth, draws), (draws < truth).sum(0))
    with pytest.raises(
        ValueError, match=r"draws are \[S, \*batch\] for truth \[\*batch\], got shapes \(7, 3\) and \(3, 2\)"
    ):
        calibration.rank(truth, draws[..., 0])


@checks(calibration.coverage)
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_coverage_of_highest_density_regions_is_that_of_a_gaussian(scale):
    """A disc of probability alpha of q, of radius^2 -2 s^2 log(1 - alpha), holds 1 - (1 - alpha)^(s^2); 5 deviations, 6e-7.

    Of S draws the share within is binomial: its curvature in the coverage is at most 4 / S here.
    """
    found = calibration.coverage(ranks(0.0, scale)[:, 3], DRAWS, LEVELS)
    expected = 1 - (1 - np.asarray(LEVELS)) ** (scale**2)
    error = 5 * np.sqrt(expected * (1 - expected) / PAIRS) + (0.04 if scale != 1 else 0)
    assert (abs(found - expected) < error).all()
    if scale != 1:
        assert ((found < LEVELS) == (scale < 1)).all()


def test_coverage_of_levels_that_float32_rounds_counts_whole_ranks():
    every = jnp.arange(1000)
    levels = jnp.linspace(0.0, 1.0, 101)
    np.testing.assert_allclose(calibration.coverage(every, 999, levels), levels, atol=1e-6)


@checks(calibration.rank_uniformity)
def test_the_test_of_uniformity_is_pearsons():
    values = np.random.RandomState(0).randint(0, 100, (500, 2))
    statistic, p = calibration.rank_uniformity(values, 99, 20)
    for column in range(2):
        counts = np.bincount(values[:, column] // 5, minlength=20)
        expected = scipy.stats.chisquare(counts)
        assert float(statistic[column]) == pytest.approx(expected.statistic, rel=1e-5)
        assert float(p[column]) == pytest.approx(expected.pvalue, rel=1e-4)
    for bins in (1, 7):
        with pytest.raises(
            ValueError, match=f"bins={bins} cannot share ranks 0..99 evenly; take a divisor of 100"
        ):
            calibration.rank_uniformity(values, 99, bins)


@checks(calibration.distances)
def test_distances_are_in_units_of_the_coordinates():
    theta, references, scale = np.random.RandomState(0).randn(3, 5, 2)
    expected = np.sqrt((((theta - references) / scale[0]) ** 2).sum(-1))
    np.testing.assert_allclose(calibration.distances(theta, references, scale[0]), expected, rtol=1e-6)


@checks(calibration.contraction, calibration.z_score)
def test_contraction_and_z_scores_of_the_gaussian_are_known():
    """With noise of variance v the contraction is 1 / (1 + v); z of the posterior mean x / (1 + v)."""
    v, theta, x = 0.25, np.array([0.3, -2.0]), np.array([1.0, -1.5])
    std = np.sqrt(v / (1 + v))
    assert float(calibration.contraction(1.0, std)) == pytest.approx(1 / (1 + v), rel=1e-6)
    np.testing.assert_allclose(
        calibration.z_score(theta, x / (1 + v), std), (x / (1 + v) - theta) / std, rtol=1e-5
    )


@checks(calibration.local_c2st)
def test_the_local_statistic_of_the_best_classifier_is_known():
    """Of N(0, 1) and N(d, 1), equally often, d(x) is a logistic function: its mean square by quadrature, 5 deviations."""
    shift, draws = 1.5, np.random.RandomState(0).randn(4000, 2)
    best = lambda x: scipy.special.expit(shift * (x - shift / 2))
    probabilities, law = best(draws), scipy.stats.norm()
    expected = law.expect(lambda x: (best(x) - 0.5) ** 2)
    error = 5 * ((probabilities - 0.5) ** 2).std(0) / np.sqrt(4000)
    assert (abs(np.asarray(calibration.local_c2st(probabilities)) - expected) < error).all()


@checks(calibration.predictive_p_value)
def test_predictive_p_values_are_exact_for_replicates_of_one_law():
    """Of S + 1 exchangeable numbers each is the observed one as often: P(p <= 2k / (S + 1)) = 2k / (S + 1), enumerated."""
    numbers = np.random.RandomState(0).randn(10)
    replicated = np.stack([np.delete(numbers, i) for i in range(10)], 1)
    p = np.sort(calibration.predictive_p_value(numbers, replicated))
    np.testing.assert_allclose(p, np.repeat([0.2, 0.4, 0.6, 0.8, 1.0], 2) + 0.0, rtol=1e-6)
    assert float(calibration.predictive_p_value(0.0, np.zeros(9))) == 1  # ties say nothing
    assert np.isnan(calibration.predictive_p_value(np.nan, np.zeros(9)))
