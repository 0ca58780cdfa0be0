"""Markov chains: R-hat and the effective sample size against sums written out, and chains whose autocorrelation is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from dlvm_jax.functional import chains
from tests.functional.common import checks

both = jax.jit(lambda draws: (chains.split_r_hat(draws), chains.effective_sample_size(draws)))


def autoregressive(rho, shape, seed=0):
    """Chains x_t = rho x_{t-1} + sqrt(1 - rho^2) e_t, stationary from the start."""
    noise = np.random.RandomState(seed).randn(*shape)
    noise[:, 1:] *= math.sqrt(1 - rho**2)
    return scipy.signal.lfilter([1.0], [1.0, -rho], noise, axis=1)


@checks(chains.split_r_hat)
def test_r_hat_is_the_ratio_of_variances():
    """Written out in NumPy; of two chains of variance 1 that are 2 d apart about sqrt(1 + 4 d^2 / 3); an odd draw is left out."""
    x = np.random.RandomState(0).randn(3, 21, 2) + np.array([0.0, 1.0, -2.0])[:, None, None]
    halves = np.concatenate([x[:, :10], x[:, 10:20]])
    within, between = halves.var(1, ddof=1).mean(0), 10 * halves.mean(1).var(0, ddof=1)
    np.testing.assert_allclose(both(x)[0], np.sqrt((0.9 * within + between / 10) / within), rtol=1e-5)
    apart = np.random.RandomState(1).randn(2, 4000) + np.array([[3.0], [-3.0]])
    assert float(both(apart)[0]) == pytest.approx(math.sqrt(1 + 4 * 9 / 3), rel=0.02)
    drifting = np.linspace(0, 4, 4000) + np.random.RandomState(2).randn(1, 4000)
    assert float(both(drifting)[0]) > 1.3  # one chain, whose halves disagree


@checks(chains.effective_sample_size)
@pytest.mark.parametrize("rho", [0.0, 0.8, -0.5])
def test_autoregressive_chains_are_worth_the_draws_that_theory_says(rho):
    """n (1 - rho) / (1 + rho) of n = 80,000; R-hat is 1.

    A sum over lags of about ten times 1 / (1 - rho) has a relative error of some sqrt(2 lags / n) = 4 %: four of these.
    """
    r_hat, effective = both(autoregressive(rho, (4, 20_000, 2)))
    assert (abs(r_hat - 1) < 0.01).all()
    np.testing.assert_allclose(effective, 80_000 * (1 - rho) / (1 + rho), rtol=0.15)


def test_the_effective_sample_size_is_geyers_sum_written_out():
    """Autocovariances term by term, pairs until one is not positive, none above those before.  Chains apart are worth less."""
    x = autoregressive(0.6, (2, 60)) + np.array([[0.3], [-0.3]])
    halves = np.concatenate([x[:, :30], x[:, 30:]])
    centred = halves - halves.mean(1, keepdims=True)
    within = halves.var(1, ddof=1).mean()
    total = 29 / 30 * within + halves.mean(1).var(ddof=1)
    rho = [
        1 - (within - (centred[:, : 30 - t] * centred[:, t:]).sum(1).mean() / 30) / total for t in range(30)
    ]
    rho[0], time, last = 1.0, -1.0, np.inf
    for k in range(0, 30, 2):
        if rho[k] + rho[k + 1] <= 0:
            break
        last = min(last, rho[k] + rho[k + 1])
        time += 2 * last
    assert k > 2 and float(both(x)[1]) == pytest.approx(120 / time, rel=1e-4)
    assert float(both(x + np.array([[9.0], [-9.0]]))[1]) < 10


def test_what_no_mean_can_be_taken_of_is_nan_and_swings_are_bounded():
    x = np.random.RandomState(0).randn(2, 60, 3)
    x[0, 0, 0], x[:, :, 1] = np.nan, 5.0
    for value in both(x):
        assert np.isnan(value[:2]).all() and np.isfinite(value[2])
    swings = (-1.0) ** np.arange(60) * np.ones((2, 1)) + 0.01 * x[:, :, 2]
    assert float(both(swings)[1]) == pytest.approx(120 * math.log10(120), rel=1e-5)
    for shape in ((5,), (4, 3)):
        with pytest.raises(
            ValueError, match=r"chains are \[M, N, \*batch\] of at least four draws each, got"
        ):
            chains.split_r_hat(jnp.zeros(shape))
