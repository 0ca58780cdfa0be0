"""Both precisions."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(params=[jnp.float32, jnp.float64], ids=["float32", "float64"])
def dtype(request):
    """Run a test in single and in double precision."""
    with jax.enable_x64(request.param is jnp.float64):
        yield request.param
