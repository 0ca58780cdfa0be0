"""The compiled functions at large batches: XLA for CPU has fused reductions with shared vectors into wrong values there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import densities, divergences, hyperbolic, mixtures, numerics, spherical
from dlvm_jax.functional.flows import autoregressive, constraints, orthogonal, planar, radial, sylvester

pytestmark = pytest.mark.slow  # what the fast tests, compiled without optimisation, cannot see
ROWS, SETS, DIM = 2000, 30, 3
RNG = np.random.RandomState(0)


def draw(*shape):
    return jnp.asarray(RNG.randn(*shape), jnp.float32)


Z, V, W, B = draw(ROWS, SETS, DIM), draw(SETS, DIM), draw(SETS, DIM), draw(SETS)
MIRRORS, SQUARE = draw(SETS, 2, DIM), draw(SETS, DIM, DIM)
TRIANGLE = constraints.sylvester_triangle(0.3 * SQUARE)
BASIS = orthogonal.orthonormal(SQUARE)
UNIT, BALL = spherical.to_sphere(V), 0.3 * jnp.tanh(V)
SPHERE, DISC = spherical.to_sphere(Z), 0.5 * jnp.tanh(Z)
U_HAT = constraints.planar_u_hat(W, V)

FUNCTIONS = {
    "inner_product": (lambda z, v: numerics.inner_product(z, v)[..., None] * v, Z, V),
    "householder": (orthogonal.householder, Z, V),
    "householder_product": (orthogonal.householder_product, Z, MIRRORS),
    "householder_product_inverse": (orthogonal.householder_product_inverse, Z, MIRRORS),
    "planar": (planar.planar, Z, W, U_HAT, B),
    "planar_inverse": (planar.planar_inverse, Z, W, U_HAT, B),
    "planar of one vector": (planar.planar, Z, W, W, B),
    "radial": (radial.radial, Z, V, jnp.exp(B), jnp.exp(B)),
    "radial_inverse": (radial.radial_inverse, Z, V, jnp.exp(B), jnp.exp(B)),
    "sylvester": (sylvester.sylvester, Z, BASIS, TRIANGLE, TRIANGLE, V),
    "sylvester_inverse": (sylvester.sylvester_inverse, Z, BASIS, TRIANGLE, TRIANGLE, V),
    "autoregressive": (lambda z, v: autoregressive.autoregressive(z, lambda z: (v, v)), Z, V),
    "von_mises_fisher_log_prob": (spherical.von_mises_fisher_log_prob, SPHERE, UNIT, jnp.exp(B)),
    "mobius_add": (lambda x, y: hyperbolic.mobius_add(x, y, 0.7), BALL, DISC),
    "exp_map": (lambda x, v: hyperbolic.exp_map(x, v, 0.7), BALL, Z),
    "log_map": (lambda x, y: hyperbolic.log_map(x, y, 0.7), BALL, DISC),
    "distance": (lambda x, y: hyperbolic.distance(x, y, 0.7), BALL, DISC),
    "wrapped_normal": (lambda x, m: hyperbolic.wrapped_normal_log_prob(x, m, m, 0.7), DISC, BALL),
    "normal_log_prob": (densities.normal_log_prob, Z, V, 0.3 * V),
    "multivariate_normal": (densities.multivariate_normal_log_prob, Z, V, jnp.swapaxes(TRIANGLE, -1, -2)),
    "kl_normal": (divergences.kl_normal, Z, Z * 0.3, V, 0.3 * V),
    "aggregate": (mixtures.normal_mixture_log_prob, Z[:, 0], V, 0.3 * V),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_and_step_by_step_agree_on_many_rows(name):
    """60,000 rows that share 30 vectors; both are float32, whose rounding may differ by a few units in the last place."""
    function, *arguments = FUNCTIONS[name]

    def gradient(*arguments):
        value, pullback = jax.vjp(function, *arguments)
        return pullback(jax.tree.map(jnp.cos, value))

    for compute in (function, gradient):
        compiled = jax.jit(compute)(*arguments)
        with jax.disable_jit():
            expected = compute(*arguments)
        for one, other in zip(jax.tree.leaves(compiled), jax.tree.leaves(expected), strict=True):
            size = max(1.0, float(jnp.abs(other).max()))  # gradients of shared vectors are sums over all rows
            np.testing.assert_allclose(one / size, other / size, rtol=1e-3, atol=1e-3)
