"""Integrals of positive functions: closed forms, and the density of a coarse rule."""

import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional.flows import monotonic
from tests.functional.common import checks
from tests.functional.flows.test_scalars import derivative


@checks(monotonic.monotonic, monotonic.monotonic_inverse)
@pytest.mark.usefixtures("x64")
def test_integral_has_its_closed_forms():
    """Polynomials are integrated exactly: g = 1 + t^2 gives z + z^3 / 3, a constant an affine map, also very far away."""
    z = jnp.linspace(-5, 5, 30)
    y, log_det = monotonic.monotonic(z, lambda t: 1 + t**2, 0.3)
    np.testing.assert_allclose(y, 0.3 + z + z**3 / 3, rtol=1e-12)
    np.testing.assert_allclose(log_det, jnp.log1p(z**2), atol=1e-12)
    np.testing.assert_allclose(monotonic.monotonic_inverse(y, lambda t: 1 + t**2, 0.3)[0], z, atol=1e-12)
    far = jnp.array([-1e4, 1e4])
    z, log_det = monotonic.monotonic_inverse(far, lambda t: 0.01 + 0 * t, 1.0)
    np.testing.assert_allclose(z, (far - 1) / 0.01, rtol=1e-12)
    np.testing.assert_allclose(log_det, np.log(100), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_log_det_of_a_coarse_integral_is_that_of_what_is_computed():
    """With three nodes the sum is off by percents, its derivative is not log g; the density still belongs to the map."""
    z = jnp.linspace(-3, 3, 40)
    g = lambda t: 2 + jnp.sin(3 * t)
    y, log_det = monotonic.monotonic(z, g, 0.0, nodes=3)
    slope = derivative(lambda z: monotonic.monotonic(z, g, 0.0, nodes=3)[0], z)
    np.testing.assert_allclose(log_det, jnp.log(slope), atol=1e-12)
    assert jnp.abs(log_det - jnp.log(g(z))).max() > 0.05
    exact = 2 * z + (1 - jnp.cos(3 * z)) / 3
    assert jnp.abs(y - exact).max() > 0.01
    np.testing.assert_allclose(monotonic.monotonic(z, g, 0.0)[0], exact, atol=1e-12)
