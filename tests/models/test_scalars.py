"""Every bijection of a number or an angle by raw parameters, in one test: alone, in a batch, and where it starts."""

import jax
import numpy as np
import pytest

from dlvm_jax.models import scalars
from tests.models.test_flows import SCALARS, moved

ALL = {**SCALARS, "interval_spline": scalars.interval_spline(4)}


@pytest.mark.usefixtures("x64")
def test_every_scalar_is_a_bijection_by_its_own_raw_parameters():
    """Slope against autodiff one by one, which a wrong axis of the raw parameters would differ from; zeros give the identity."""
    random = np.random.RandomState(0)
    for name, scalar in ALL.items():
        raw, z = random.randn(2, 3, scalar.width), random.uniform(-0.9, 0.9, (2, 3))

        @jax.jit
        def found(params, z, raw, scalar=scalar):
            x, log_det = scalar.forward(params, z, raw)
            one = jax.value_and_grad(lambda z, raw: scalar.forward(params, z, raw)[0])
            return x, log_det, scalar.inverse(params, x, raw), jax.vmap(jax.vmap(one))(z, raw)

        params = moved(scalar.init)
        x, log_det, (back, log_det_back), (alone, slope) = found(params, z, raw)
        np.testing.assert_allclose(alone, x, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(log_det, np.log(slope), atol=1e-9, err_msg=name)
        np.testing.assert_allclose(back, z, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(log_det_back, -log_det, atol=1e-7, err_msg=name)
        if name != "umnn":  # whose network is of its own
            np.testing.assert_allclose(found(params, z, 0 * raw)[0], z, atol=1e-9, err_msg=name)
