"""Parts of hierarchical VAEs against closed forms of other functions, direct sums and the singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import densities, divergences, hierarchical
from tests.functional.common import checks

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.RandomState(0)


@checks(hierarchical.kl_residual)
def test_the_residual_kl_is_the_plain_one():
    """With the mean and log-standard deviation that the residuals stand for; near q = p it keeps its digits."""
    shift, log_scale, mean, log_std = RNG.randn(4, 6, 3)
    plain = divergences.kl_normal(mean + shift, log_std + log_scale, mean, log_std)
    np.testing.assert_allclose(hierarchical.kl_residual(shift, log_scale, log_std), plain, rtol=1e-12)
    small = hierarchical.kl_residual(1e-9 * shift, 1e-9 * log_scale, log_std)
    by_hand = (0.5 * (shift / np.exp(log_std)) ** 2 + log_scale**2).sum(-1) * 1e-18
    np.testing.assert_allclose(
        small, by_hand, rtol=1e-6
    )  # the next order is smaller by 1e-9, rounding is not


@checks(hierarchical.precision_weighted)
def test_the_precision_weighted_law_is_the_normalised_product():
    """Differences of log N(z; 1) + log N(z; 2) from the joint law do not depend on z."""
    first, second = (RNG.randn(2, 4, 1) for _ in range(2))
    joint = hierarchical.precision_weighted(*first, *second)
    z = np.linspace(-3, 3, 7)[:, None, None]
    log_prob = lambda law: densities.normal_log_prob(z, *law)
    constant = log_prob(first) + log_prob(second) - log_prob(joint)
    np.testing.assert_allclose(constant, np.broadcast_to(constant[:1], constant.shape), atol=1e-12)
    for sure, other in ((first, second), (second, first)):  # who is certain is believed, without overflow
        mean, log_std = hierarchical.precision_weighted(sure[0], -400.0, *other)
        np.testing.assert_allclose(mean, sure[0], rtol=1e-12)
        np.testing.assert_allclose(log_std, -400.0, rtol=1e-12)


@checks(hierarchical.balancing_coefficients)
def test_coefficients_balance_what_layers_say_by_what_they_are_expected_to():
    kl, sizes = RNG.rand(5, 3), np.array([1.0, 2.0, 4.0])
    found = hierarchical.balancing_coefficients(kl, sizes)
    weight = (0.01 + kl.mean(0)) / sizes
    np.testing.assert_allclose(found, 3 * weight / weight.sum(), rtol=1e-12)
    gradient = jax.grad(lambda kl: hierarchical.balancing_coefficients(kl, sizes).sum())(jnp.asarray(kl))
    assert (gradient == 0).all()
    with pytest.raises(
        ValueError, match=r"one number for each layer, got shape \(2,\) for a KL of shape \(5, 3\)"
    ):
        hierarchical.balancing_coefficients(kl, sizes[:2])


@checks(hierarchical.free_bits)
def test_free_bits_take_the_mean_before_the_maximum():
    kl = RNG.rand(7, 2, 3)
    expected = sum(max(0.45, kl[..., layer].mean()) for layer in range(3))
    assert float(hierarchical.free_bits(kl, 0.45)) == pytest.approx(expected, rel=1e-12)
    assert float(hierarchical.free_bits(kl, 0.0)) == pytest.approx(kl.mean((0, 1)).sum(), rel=1e-12)


@checks(hierarchical.tempered)
def test_a_temperature_scales_the_standard_deviation():
    np.testing.assert_allclose(
        np.exp(hierarchical.tempered(np.log([0.5, 2.0]), 0.7)), [0.35, 1.4], rtol=1e-12
    )
    assert float(densities.normal_sample(jax.random.key(0), 3.0, hierarchical.tempered(0.2, 0.0))) == 3.0


@checks(hierarchical.power_iteration)
def test_power_iteration_gives_the_largest_singular_value_and_its_gradient():
    """Several matrices at once, of any scale; the gradient is the outer product of the singular vectors."""
    matrix = RNG.randn(2, 4, 6) * np.array([1e-30, 1e3])[:, None, None]
    found, left = hierarchical.power_iteration(matrix, RNG.randn(2, 4), 300)
    u, s, v = np.linalg.svd(matrix)
    np.testing.assert_allclose(found, s[:, 0], rtol=1e-12)
    np.testing.assert_allclose(abs((left * u[..., 0]).sum(-1)), 1, rtol=1e-12)
    gradient = jax.grad(lambda w: hierarchical.power_iteration(w, left, 1)[0].sum())(jnp.asarray(matrix))
    np.testing.assert_allclose(gradient, u[..., :1] * v[:, :1], atol=1e-9)
    rough, better = hierarchical.power_iteration(matrix[1], np.ones(4), 1)
    again, _ = hierarchical.power_iteration(matrix[1], better, 1)
    assert float(rough) < float(again) < s[1, 0]  # from below, kept from step to step
    assert float(hierarchical.power_iteration(np.zeros((3, 2)), np.ones(3))[0]) == 0.0
    with pytest.raises(ValueError, match=r"a matrix .* has a left vector"):
        hierarchical.power_iteration(matrix, np.ones(4))
    with pytest.raises(ValueError, match="at least one step, got 0"):
        hierarchical.power_iteration(matrix[0], np.ones(4), 0)
