"""Constraints: their bounds, closed forms and the edges of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional.flows import constraints
from tests.functional.common import checks


@checks(constraints.planar_u_hat)
@pytest.mark.usefixtures("x64")
def test_planar_direction_keeps_the_flow_invertible_and_moves_along_w_only():
    w, u = jax.random.normal(jax.random.key(0), (2, 500, 4)) * jnp.logspace(-8, 3, 500)[:, None]
    u_hat = constraints.planar_u_hat(w, u)
    overlap, before = jnp.sum(w * u_hat, -1), jnp.sum(w * u, -1)
    assert (overlap > -1 + 0.99 * constraints.MIN_SLOPE).all() and float(overlap.min()) < -0.95
    aside = u_hat - u - w * jnp.sum(w * (u_hat - u), -1, keepdims=True) / jnp.sum(w * w, -1, keepdims=True)
    np.testing.assert_allclose(aside / jnp.abs(u).max(-1, keepdims=True), 0.0, atol=1e-12)
    assert (
        jnp.linalg.norm(u_hat - u, axis=-1) <= jnp.linalg.norm(u, axis=-1) + 1 / jnp.linalg.norm(w, axis=-1)
    ).all()
    np.testing.assert_allclose(overlap, constraints.radial_beta_hat(1.0, before), rtol=1e-9, atol=1e-9)


@checks(constraints.radial_beta_hat)
@pytest.mark.usefixtures("x64")
def test_constraint_is_a_softplus_moved_through_the_origin():
    """m(x) = -1 + delta + softplus(x + s) with m(0) = 0, in the naive form, to rounding."""
    beta = jnp.linspace(-30, 30, 301)
    shift = np.log(np.exp(1 - constraints.MIN_SLOPE) - 1)
    expected = constraints.MIN_SLOPE - 1 + np.logaddexp(0, np.asarray(beta) + shift)
    np.testing.assert_allclose(constraints.radial_beta_hat(2.0, beta), 2 * expected, atol=1e-14)
    gradient = jax.vmap(jax.grad(lambda b: constraints.radial_beta_hat(1.0, b)))(beta)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(beta + shift), atol=1e-14)


@checks(constraints.sylvester_triangle)
def test_constraints_at_the_edges_of_float32():
    """Huge numbers do not round to the border, tiny ones keep their digits, and w = 0 is no division."""
    huge = jnp.float32([-1e30, 1e4, -1e4])
    beta = constraints.radial_beta_hat(1.0, huge)
    assert (1 + beta > 0.99 * constraints.MIN_SLOPE).all() and np.isfinite(beta).all()
    u = jnp.float32([1e-3, 2.0])
    np.testing.assert_array_equal(constraints.planar_u_hat(jnp.zeros(2), u), u)
    gradient = jax.grad(lambda w: constraints.planar_u_hat(w, u).sum())(jnp.zeros(2))
    assert np.isfinite(gradient).all()
    tiny = constraints.planar_u_hat(jnp.float32([1e-6, 0.0]), u)
    rate = 1 - np.exp(constraints.MIN_SLOPE - 1)  # m'(0)
    np.testing.assert_allclose(tiny, [rate * 1e-3, 2.0], rtol=1e-5)
    r = constraints.sylvester_triangle(jnp.full((2, 2), 100.0))
    assert float(1 - r[0, 0] * r[1, 1]) > 0.99 * constraints.MIN_SLOPE
    np.testing.assert_array_equal(r[1, 0], 0.0)
    assert float(r[0, 1]) == 100.0


@checks(constraints.positive, constraints.moebius_centre)
@pytest.mark.usefixtures("x64")
def test_constraints_keep_their_bounds_and_are_smooth_at_zero():
    a = jnp.array([-1e4, -1.0, 0.0, 5.0])
    alpha = constraints.positive(a)
    assert (alpha > 0.99 * constraints.MIN_SLOPE).all() and float(alpha[2]) == 1.0
    np.testing.assert_allclose(alpha, constraints.radial_beta_hat(1.0, a) + 1, rtol=1e-15)
    w = jnp.array([[3.0, 4.0], [0.0, 0.0], [3e6, 4e6]])
    centre = constraints.moebius_centre(w)
    np.testing.assert_allclose(centre[0], [0.99 * 0.5, 0.99 * 4 / 6], rtol=1e-14)
    assert (jnp.linalg.norm(centre, axis=-1) < 0.99).all()
    np.testing.assert_allclose(jax.jacrev(constraints.moebius_centre)(w[1]), 0.99 * np.eye(2), atol=1e-15)
