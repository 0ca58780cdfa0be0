"""Learned reverse variances, and the loss that trains them with the mean."""

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.diffusion import process as p
from dlvm_jax.functional.diffusion import quantised, targets, variational
from tests.functional.common import central_difference, checks
from tests.functional.diffusion.test_variational import LINEAR


@checks(variational.learned_log_std)
def test_learned_variance_lies_between(x64):
    t = jnp.array([0.001, 0.5])
    small, large = (variational.reverse_log_std(LINEAR, kind, t - 0.001, t) for kind in ("small", "large"))
    for fraction, wanted in ((0.0, small), (1.0, large), (0.3, 0.7 * small + 0.3 * large)):
        got = variational.learned_log_std(LINEAR, jnp.full((2, 3), fraction), t - 0.001, t)
        np.testing.assert_allclose(got, jnp.broadcast_to(wanted[:, None], (2, 3)), rtol=1e-12)


def hybrid(t):
    rng = np.random.RandomState(0)
    levels = jnp.asarray(rng.randint(0, 256, (2, 3)))
    x0, eps = quantised.unit_levels(levels), jnp.asarray(rng.randn(2, 3))
    x_t = p.diffuse(LINEAR, x0, t, eps)
    decoder = lambda mean, log_std: quantised.gaussian_decoder(levels, mean, log_std)
    guess, fraction = jnp.asarray(eps + 0.1 * rng.randn(2, 3)), jnp.asarray(rng.rand(2, 3))
    loss = jax.jit(
        lambda guess, fraction: variational.hybrid_loss(
            LINEAR, "epsilon", guess, fraction, decoder, x0, x_t, t
        )
    )
    return loss, guess, fraction, x0, x_t, eps, decoder


@checks(variational.hybrid_loss)
def test_hybrid_loss_is_the_sum_of_its_parts(x64):
    """First and later step in one batch; the mean learns from the simple loss alone, the variance from the bound."""
    t = jnp.array([0.001, 0.003])
    loss, guess, fraction, x0, x_t, eps, decoder = hybrid(t)
    simple = jnp.square(eps - guess).sum(-1)
    x0_hat = targets.to_x0(LINEAR, "epsilon", guess, x_t, t)
    log_std = variational.learned_log_std(LINEAR, fraction, t - 0.001, t)
    later = variational.step_kl(LINEAR, x0, x0_hat, t - 0.001, t, log_std)
    bound = jnp.array([-decoder(x0_hat, log_std)[0], later[1]])
    np.testing.assert_allclose(loss(guess, fraction), simple + 1e-3 * 1000 * bound, rtol=1e-8)
    of_mean, of_fraction = jax.jit(jax.grad(lambda *a: loss(*a).sum(), argnums=(0, 1)))(guess, fraction)
    np.testing.assert_allclose(of_mean, 2 * (guess - eps), rtol=1e-7, atol=1e-9)
    expected = central_difference(lambda fraction: loss(guess, fraction).sum(), fraction)
    np.testing.assert_allclose(of_fraction, expected, rtol=1e-5, atol=1e-7)
    assert (jnp.abs(of_fraction) > 1e-4).all()
