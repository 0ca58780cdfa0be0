"""Probabilistic PCA as a density, and gradient descent that is EM."""

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional import linear_gaussian
from dlvm_jax.models import ppca

X = jnp.asarray(np.random.RandomState(0).randn(30, 2, 3), jnp.float32) + 1.0


def test_a_gradient_step_of_rate_one_is_a_step_of_em():
    """Float32 roundings; the metric is the mean log-evidence before the step."""
    params = ppca.ppca((2, 3), 2, mean=np.full(6, 0.3)).init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(ppca.em_objective((2, 3)), has_aux=True))
    (loss, metrics), gradient = step(params, None, X)
    flat = X.reshape(30, 6)
    updated = jax.jit(linear_gaussian.ppca_em_step)(params, flat)
    for old, slope, new in zip(params, gradient, updated, strict=True):
        np.testing.assert_allclose(old - slope, new, atol=1e-5)
    distance = sum(float(np.sum(np.square(old - new))) for old, new in zip(params, updated, strict=True))
    np.testing.assert_allclose(loss, 0.5 * distance, rtol=1e-5)
    np.testing.assert_allclose(metrics["bound"], linear_gaussian.log_evidence(params, flat).mean(), rtol=1e-6)


def test_it_starts_as_it_says():
    """Columns of W have a norm of about one: its square is within 6 deviations of one, false alarms 1e-8."""
    model = ppca.ppca((40, 50), 3, mean=2.0)
    params = model.init(jax.random.key(0))
    np.testing.assert_allclose(jnp.square(params.w).sum(0), 1, atol=6 * np.sqrt(2 / 2000))
    assert params.w.shape == (2000, 3) and (params.mean == 2).all() and params.log_std == 0
    assert (model.mean(params) == 2).all() and model.mean(params).shape == (40, 50)
