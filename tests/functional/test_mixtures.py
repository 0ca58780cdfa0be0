"""The mixture of Gaussians equals SciPy, near and far from its components, its gradient that of all differences at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dlvm_jax.functional import densities
from dlvm_jax.functional.mixtures import normal_mixture_log_prob
from tests.functional.common import checks
from tests.functional.test_total_correlation import mixture_density, posteriors


@checks(normal_mixture_log_prob)
def test_mixture_equals_scipy(dtype):
    """Sums of six terms: 1e-5 in float32 and 1e-12 in float64."""
    mean, log_std = posteriors()
    z = np.random.RandomState(1).randn(3, 5, 2) * 2
    value = normal_mixture_log_prob(*(jnp.asarray(a, dtype) for a in (z, mean, log_std)))
    assert value.shape == (3, 5) and value.dtype == dtype
    truth = np.log(mixture_density(z.reshape(-1, 2), mean, log_std)[0]).reshape(3, 5)
    np.testing.assert_allclose(value, truth, atol=1e-5 if dtype == jnp.float32 else 1e-12)
    weights = np.log([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    one = normal_mixture_log_prob(jnp.asarray(z[0, 0]), mean, log_std, jnp.asarray(weights))
    each = scipy.stats.norm.pdf(z[0, 0], mean, np.exp(log_std)).prod(-1)
    assert float(one) == pytest.approx(np.log(np.exp(weights) @ each), abs=1e-5)


def test_mixture_far_from_everything_is_finite_with_finite_gradient():
    mean, log_std = (jnp.asarray(a, jnp.float32) for a in posteriors())
    value, gradient = jax.value_and_grad(normal_mixture_log_prob)(
        jnp.full(2, 1e4, jnp.float32), mean, log_std
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(("dim", "centre", "spread"), [(40, -1.5, 0.3), (20, -4.0, 1.0), (20, -6.0, 1.0)])
def test_rounding_at_the_scale_of_a_trained_prior(dim, centre, spread):
    """500 narrow components: within 1e-3 nats of float64, where matrix products alone are wrong by up to 50."""
    rng = np.random.RandomState(0)
    mean, log_std = 1.5 * rng.randn(500, dim) + 3, centre + spread * rng.randn(500, dim)
    mean, log_std = mean.astype(np.float32), log_std.astype(np.float32)
    z = (mean[:200] + np.exp(log_std[:200]) * rng.randn(200, dim)).astype(np.float32)
    mean, log_std, z = (a.astype(float) for a in (mean, log_std, z))
    each = scipy.stats.norm.logpdf(z[:, None], mean, np.exp(log_std)).sum(-1)
    truth = scipy.special.logsumexp(each, axis=-1) - np.log(500)
    value = normal_mixture_log_prob(*(jnp.asarray(a, jnp.float32) for a in (z, mean, log_std)))
    np.testing.assert_allclose(value, truth, atol=1e-3)


@pytest.mark.parametrize("log_std", [-7.0, -9.0])
def test_many_narrow_components_close_together(log_std):
    """Two clusters of 100, each within a standard deviation: float32 to 1e-4, where matrix products are wrong by nats."""
    rng = np.random.RandomState(0)
    mean = np.repeat([[-3.0, 3.0], [3.0, -3.0]], 100, axis=0) + np.exp(log_std) * rng.randn(200, 2)
    mean, log_std = mean.astype(np.float32), np.full((200, 2), log_std, np.float32)
    z = (mean[::10] + np.exp(log_std[::10]) * rng.randn(20, 2)).astype(np.float32)
    value = normal_mixture_log_prob(*map(jnp.asarray, (z, mean, log_std)))
    truth = np.log(mixture_density(*(a.astype(float) for a in (z, mean, log_std)))[0])
    np.testing.assert_allclose(value, truth, atol=1e-4)


def test_gradient_needs_the_memory_of_a_few_distances():
    """Of 1000 points from 200 components, as floats; all differences in 30 dimensions would be 30 times as much."""
    gradient = jax.jit(jax.grad(lambda *a: normal_mixture_log_prob(*a).sum(), (0, 1, 2)))
    arrays = jnp.zeros((1000, 30)), jnp.zeros((200, 30)), jnp.zeros((200, 30))
    memory = gradient.lower(*arrays).compile().memory_analysis().temp_size_in_bytes
    assert memory < 8 * 4 * 1000 * 200


def test_gradient_equals_that_of_differences(x64):
    mean, log_std = (jnp.asarray(a) for a in posteriors())
    z = jnp.asarray(np.random.RandomState(1).randn(4, 2))

    def plain(z, mean, log_std):
        each = densities.normal_log_prob(z[:, None], mean, log_std)
        return (jax.nn.logsumexp(each, axis=-1) - jnp.log(len(mean))).sum()

    fast = jax.grad(lambda *a: normal_mixture_log_prob(*a).sum(), (0, 1, 2))(z, mean, log_std)
    for one, other in zip(fast, jax.grad(plain, (0, 1, 2))(z, mean, log_std), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_vectors_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"vectors of 2 numbers, got an array of shape \(5, 3\)"):
        normal_mixture_log_prob(jnp.zeros((5, 3)), jnp.zeros((4, 2)), jnp.zeros((4, 2)))
