"""Figures from log-weights against closed forms, and their standard errors against many repetitions."""

import numpy as np
import pytest

from dlvm_jax.evaluate.importance import importance_diagnostics

S, LOG_Z = 0.3, 2.5  # log-weights N(LOG_Z - S^2 / 2, S^2): E w = Z, KL = S^2 / 2, E[w^2] / Z^2 = e^(S^2)


def draws(count, repetitions=1):
    noise = np.random.default_rng(0).standard_normal((repetitions, count))
    return LOG_Z - S**2 / 2 + S * noise


def test_against_closed_forms():
    """Log-normal weights; each figure within 4 of its standard errors: false alarms 2.5e-4 in all."""
    found = importance_diagnostics(draws(20_000)[0], LOG_Z)
    exact = {"log_partition": LOG_Z, "kl": S**2 / 2, "kl_known": S**2 / 2, "effective": 100 * np.exp(-(S**2))}
    for name, value in exact.items():
        estimate = getattr(found, name)
        assert 0 < estimate.standard_error < 0.5
        assert abs(estimate.value - value) < 4 * estimate.standard_error, name
    assert importance_diagnostics(draws(10)[0]).kl_known is None


def test_standard_errors():
    """They are the spread of repetitions; 400 of them give it to 3.5 %, so the four checks have a false-alarm rate of 1e-4."""
    found = [importance_diagnostics(row, LOG_Z) for row in draws(2_000, 400)]
    for name in found[0]._fields:
        pairs = np.array([getattr(one, name) for one in found])
        assert abs(pairs[:, 1].mean() / pairs[:, 0].std(ddof=1) - 1) < 0.15, name


def test_equal_weights_are_perfect_and_shapes_are_checked():
    found = importance_diagnostics(np.full(10, 700.0), 700.0)
    assert found.log_partition == pytest.approx((700.0, 0.0)) and found.effective == pytest.approx(
        (100.0, 0.0)
    )
    assert found.kl == pytest.approx((0.0, 0.0)) == found.kl_known
    with pytest.raises(ValueError, match=r"at least 2 samples, got shape \(1,\)"):
        importance_diagnostics(np.zeros(1))


@pytest.mark.parametrize("bad", [[0.0, np.nan], [0.0, np.inf], [-np.inf, -np.inf], [1j, 0.0], ["1", "2"]])
def test_weights_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="log-weights"):
        importance_diagnostics(bad)
