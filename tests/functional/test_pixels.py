"""Mixtures of logistics for whole pixels: enumeration, the hand-written chain of channels, draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dlvm_jax.functional import densities, pixels
from tests.functional.common import checks

LEVELS, COMPONENTS, CHANNELS = 8, 3, 3
RNG = np.random.RandomState(1)
LOGITS, MEAN = RNG.randn(COMPONENTS), RNG.uniform(size=(COMPONENTS, CHANNELS))
LOG_SCALE, COUPLING = RNG.randn(COMPONENTS, CHANNELS) - 2, 2 * RNG.randn(COMPONENTS, CHANNELS, CHANNELS)
PARAMETERS = LOGITS, MEAN, LOG_SCALE, COUPLING
PIXELS = np.array(list(itertools.product(range(LEVELS), repeat=CHANNELS)), np.float32)


def cell(x, mean, scale):
    """P(level x) of a logistic by SciPy, in double precision; the ends take the tails."""
    low = 0.0 if x == 0 else scipy.special.expit((x / LEVELS - mean) / scale)
    high = 1.0 if x == LEVELS - 1 else scipy.special.expit(((x + 1) / LEVELS - mean) / scale)
    return high - low


def by_hand(x):
    """One pixel's probability: every component, every channel given the levels before it."""
    total = 0.0
    for k, weight in enumerate(scipy.special.softmax(LOGITS)):
        for c in range(CHANNELS):
            mean = MEAN[k, c] + sum(COUPLING[k, c, d] * ((x[d] + 0.5) / LEVELS - 0.5) for d in range(c))
            weight *= cell(x[c], mean, np.exp(LOG_SCALE[k, c]))
        total += weight
    return total


@checks(pixels.pixel_mixture_log_prob)
def test_probabilities_of_all_pixels_by_hand_and_their_sum(x64):
    """All 8^3 values of a pixel; double precision on both sides."""
    found = np.exp(pixels.pixel_mixture_log_prob(PIXELS[:, None], *(a[None] for a in PARAMETERS), LEVELS))
    np.testing.assert_allclose(found, [by_hand(x) for x in PIXELS], rtol=1e-9, atol=1e-14)
    assert abs(found.sum() - 1) < 1e-12


def test_one_channel_is_the_mixture_of_each_element():
    x = RNG.randint(0, LEVELS, (5, 4, 1)).astype(np.float32)
    logits, mean, log_scale = RNG.randn(3, 5, 4, COMPONENTS)
    expected = densities.discretised_logistic_mixture_log_prob(x[..., 0], logits, mean, log_scale, LEVELS)
    found = pixels.pixel_mixture_log_prob(
        x, logits, mean[..., None], log_scale[..., None], np.ones((5, 4, COMPONENTS, 1, 1)), LEVELS
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@checks(pixels.pixel_mixture_tables)
def test_tables_are_the_factors_of_the_probability(x64):
    """Of all 8^3 pixels: each row sums to 1, their product is the pixel's probability, and none looks at its own channel."""
    found = np.asarray(pixels.pixel_mixture_tables(PIXELS, *PARAMETERS, LEVELS))
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-12)
    each = np.take_along_axis(found, PIXELS[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(np.exp(each.sum(-1)), [by_hand(x) for x in PIXELS], rtol=1e-9, atol=1e-14)
    for c in range(CHANNELS):
        changed = PIXELS.copy()
        changed[:, c:] = (changed[:, c:] + 3) % LEVELS
        again = np.asarray(pixels.pixel_mixture_tables(changed, *PARAMETERS, LEVELS))
        np.testing.assert_array_equal(again[:, c], found[:, c])


@checks(pixels.pixel_mixture_sample)
def test_draws_have_their_probabilities():
    """Chi-squared over all values that are expected 5 times in 100,000 draws; false alarms 1e-6."""
    draws = np.asarray(pixels.pixel_mixture_sample(jax.random.key(1), *PARAMETERS, LEVELS, (100_000,)))
    expected = 1e5 * np.array([by_hand(x) for x in PIXELS])
    counts = np.bincount((draws @ [LEVELS**2, LEVELS, 1]).astype(int), minlength=LEVELS**CHANNELS)
    often = expected > 5
    rest = [expected[~often].sum()], [counts[~often].sum()]
    e, n = (np.concatenate([a[often], b]) for a, b in zip((expected, counts), rest, strict=True))
    assert ((n - e) ** 2 / e).sum() < scipy.stats.chi2.ppf(1 - 1e-6, len(e) - 1)


@checks(pixels.pixel_mixture_mean)
def test_the_mean_is_exact_where_nothing_is_rounded_away(x64):
    """Fine levels and narrow components far from the ends: by enumeration of two channels of 64 levels, to 1e-6 of a level."""
    levels, logits = 64, np.array([0.3, -0.2])
    mean, coupling = np.array([[0.4, 0.5], [0.6, 0.45]]), np.array([[[0, 0], [0.5, 0]], [[0, 0], [-0.7, 0]]])
    log_scale = np.full((2, 2), np.log(0.015))
    values = np.array(list(itertools.product(range(levels), repeat=2)), float)
    log_prob = pixels.pixel_mixture_log_prob(
        values[:, None], logits[None], mean[None], log_scale[None], coupling[None], levels
    )
    found = pixels.pixel_mixture_mean(logits, mean, coupling, levels)
    np.testing.assert_allclose(found, np.exp(log_prob) @ values, atol=1e-6)


def test_a_later_channel_does_not_move_an_earlier_one():
    """The upper triangle of the coupling is not read."""
    upper = COUPLING + np.triu(np.full((CHANNELS, CHANNELS), 9.0))
    take = lambda coupling: pixels.pixel_mixture_log_prob(
        PIXELS[:, None], LOGITS[None], MEAN[None], LOG_SCALE[None], coupling[None], LEVELS
    )
    np.testing.assert_array_equal(take(upper), take(COUPLING))


def test_other_shapes_are_refused():
    x = jnp.zeros((5, 4, CHANNELS))
    with pytest.raises(
        ValueError, match=r"coupling has the last axes \(3, 3, 3\) for 3 components of 3 channels"
    ):
        pixels.pixel_mixture_log_prob(x, LOGITS, MEAN, LOG_SCALE, MEAN, LEVELS)
    with pytest.raises(ValueError, match=r"log_scale has the last axes \(3, 3\)"):
        pixels.pixel_mixture_sample(jax.random.key(0), LOGITS, MEAN, LOGITS, COUPLING, LEVELS)
