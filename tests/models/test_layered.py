"""Spectral norms as part of an objective, against singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.models import layered

RNG = np.random.RandomState(0)
PARAMS = {
    "conv": {"kernel": jnp.asarray(RNG.randn(3, 2, 4, 5), jnp.float32), "bias": jnp.ones(5)},
    "stack": {"kernel": jnp.asarray(RNG.randn(2, 1, 1, 6, 3), jnp.float32)},  # two groups of a scan
    "dense": {"kernel": jnp.ones((7, 7))},
}


def test_spectral_norms_are_singular_values_of_the_convolutions():
    """After 100 steps of four iterations; loss and metrics of the objective itself are kept."""
    objective = layered.spectral(lambda params, *_: (params["dense"]["kernel"].sum(), {"bound": 2.0}), 0.5)
    vectors = layered.singular_vectors(PARAMS, jax.random.key(0))
    assert {name: v.shape for name, v in vectors.items()} == {"conv/kernel": (5,), "stack/kernel": (2, 3)}
    step = jax.jit(lambda vectors: objective((PARAMS, vectors), None, None))
    for _ in range(100):
        loss, metrics = step(vectors)
        vectors = metrics["variables"]
    kernels = [PARAMS["conv"]["kernel"].reshape(-1, 5), *PARAMS["stack"]["kernel"][:, 0, 0]]
    norms = [np.linalg.svd(kernel, compute_uv=False)[0] for kernel in kernels]
    assert metrics["spectral"] == pytest.approx(sum(norms), rel=1e-5) and metrics["bound"] == 2.0
    assert loss == pytest.approx(49 + 0.5 * sum(norms), rel=1e-5)


def test_a_model_without_convolutions_has_no_spectral_norms():
    with pytest.raises(ValueError, match="this model has none; leave them out"):
        layered.singular_vectors({"dense": {"kernel": jnp.ones((7, 7))}}, jax.random.key(0))
