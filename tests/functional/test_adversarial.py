"""Losses of a discriminator against the value of its optimum and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from dlvm_jax.functional import adversarial
from tests.functional.common import checks

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])


def expected_loss(logits):
    """The discriminator's loss on samples whose frequencies are exactly p and q, ten of each."""
    real, fake = (
        jnp.repeat(logits, jnp.array(10 * law).astype(int), total_repeat_length=10) for law in (P, Q)
    )
    return adversarial.discriminator_loss(real, fake)


@checks(adversarial.discriminator_loss)
def test_the_optimal_discriminator_is_the_log_ratio_and_its_loss_the_jensen_shannon_divergence(x64):
    """Minimised numerically over a table of logits; BFGS stops within 1e-6."""
    gradient = jax.grad(expected_loss)
    found = scipy.optimize.minimize(
        expected_loss, np.zeros(3), jac=gradient, method="BFGS", options={"gtol": 1e-10}
    )
    np.testing.assert_allclose(found.x, np.log(P / Q), atol=1e-6)
    m = (P + Q) / 2
    divergence = 0.5 * (P @ np.log(P / m) + Q @ np.log(Q / m))
    assert found.fun == pytest.approx(np.log(4) - 2 * divergence, abs=1e-10)


@checks(adversarial.generator_loss)
def test_losses_are_the_cross_entropies_of_probabilities(x64):
    real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, -3.0, 1.0])
    sigmoid = lambda d: 1 / (1 + np.exp(-np.asarray(d)))
    loss = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
    assert float(adversarial.discriminator_loss(real, fake)) == pytest.approx(loss, rel=1e-12)
    assert float(adversarial.generator_loss(fake)) == pytest.approx(-np.log(sigmoid(fake)).mean(), rel=1e-12)


def test_extreme_logits_are_finite_with_finite_gradients():
    """Where the probability itself rounds to 0 or 1."""
    logits = jnp.array([-1e4, 1e4], jnp.float32)
    assert float(adversarial.generator_loss(logits)) == 5e3
    gradient = jax.grad(lambda d: adversarial.discriminator_loss(d, d))(logits)
    np.testing.assert_array_equal(gradient, [-0.5, 0.5])
