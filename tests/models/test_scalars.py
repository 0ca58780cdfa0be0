"""Every bijection of a number or an angle by raw parameters, in one test: alone, in a batch, and where it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.models import scalars
from tests.models.test_flows import SCALARS, moved

ALL = {**SCALARS, "interval_spline": scalars.interval_spline(4)}


@pytest.mark.usefixtures("x64")
def test_every_scalar_is_a_bijection_by_its_own_raw_parameters():
    """Slope against autodiff; one alone as in the batch, so that no axis is mistaken; zeros give the identity."""
    random = np.random.RandomState(0)
    for name, scalar in ALL.items():
        raw, z = random.randn(2, 3, scalar.width), random.uniform(-0.9, 0.9, (2, 3))

        @jax.jit
        def found(params, z, raw, scalar=scalar):
            forward = lambda z: scalar.forward(params, z, raw)
            (x, log_det), (slope, _) = jax.jvp(forward, (z,), (jnp.ones_like(z),))
            alone = scalar.forward(params, z[1, 2], raw[1, 2])[0]
            return x, log_det, slope, alone, scalar.inverse(params, x, raw)

        params = moved(scalar.init)
        x, log_det, slope, alone, (back, log_det_back) = found(params, z, raw)
        np.testing.assert_allclose(alone, x[1, 2], rtol=1e-9, err_msg=name)
        assert abs(x - z).min() > 1e-4, name  # no point is left where it is
        np.testing.assert_allclose(log_det, np.log(slope), atol=1e-9, err_msg=name)
        np.testing.assert_allclose(back, z, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(log_det_back, -log_det, atol=1e-7, err_msg=name)
        if name != "umnn":  # whose network is of its own
            np.testing.assert_allclose(found(params, z, 0 * raw)[0], z, atol=1e-9, err_msg=name)
