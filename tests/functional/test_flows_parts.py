"""What the bijections are made of: monotone roots, constraints, orthonormal columns, substitution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from dlvm_jax.functional.flows import constraints, orthogonal
from dlvm_jax.functional.flows.autoregressive import forward_substitution, gate
from dlvm_jax.functional.flows.roots import monotone_root


def cubic(a):
    return lambda x: x**3 + a * x


def test_root_is_accurate_to_rounding(dtype):
    """Roots from 1e-6 to 9 of x^3 + x, a few units in the last place."""
    x = jnp.asarray(np.logspace(-6, 0.95, 200), dtype)
    root = jax.jit(lambda y: monotone_root(cubic(1), y, -10.0, 10.0))(cubic(1)(x))
    assert root.dtype == dtype
    np.testing.assert_allclose(root, x, rtol=4 * jnp.finfo(dtype).eps, atol=8 * jnp.finfo(dtype).eps)


def test_root_of_a_steep_step_and_outside_its_bracket(dtype):
    """tanh(1000 x) is all but a jump, where Newton alone would leave; outside the bracket its nearer end comes back."""
    y = jnp.asarray([-0.9, 0.0, 0.5], dtype)
    root = monotone_root(lambda x: jnp.tanh(1000 * x), y, -1.0, 1.0)
    np.testing.assert_allclose(jnp.tanh(1000 * root), y, atol=50 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        monotone_root(lambda x: x, jnp.asarray([5.0, -5.0], dtype), -1.0, 2.0), [2.0, -1.0]
    )


@pytest.mark.usefixtures("x64")
def test_root_has_the_implicit_derivatives():
    """x^3 + a x = y: dx/dy = 1 / (3 x^2 + a), dx/da = -x / (3 x^2 + a), d2x/dy2 = -6 x / (3 x^2 + a)^3; jit, vmap, both modes."""

    def root(y, a):
        return monotone_root(cubic(a), y, y - 10 * a, y + 10)

    y, a = jnp.array([0.3, 2.0, 5.0]), jnp.array([0.5, 1.0, 2.0])
    x = root(y, a)
    slope = 3 * x**2 + a
    for mode in (jax.grad, jax.jacfwd):
        first = jax.jit(jax.vmap(mode(root, (0, 1))))(y, a)
        np.testing.assert_allclose(first[0], 1 / slope, rtol=1e-12)
        np.testing.assert_allclose(first[1], -x / slope, rtol=1e-12)
    for second in (jax.grad(jax.grad(root)), jax.hessian(root)):
        np.testing.assert_allclose(jax.vmap(second)(y, a), -6 * x / slope**3, rtol=1e-11)


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


@pytest.mark.usefixtures("x64")
def test_constraint_is_a_softplus_moved_through_the_origin():
    """m(x) = -1 + delta + softplus(x + s) with m(0) = 0, in the naive form, to rounding."""
    beta = jnp.linspace(-30, 30, 301)
    shift = np.log(np.exp(1 - constraints.MIN_SLOPE) - 1)
    expected = constraints.MIN_SLOPE - 1 + np.logaddexp(0, np.asarray(beta) + shift)
    np.testing.assert_allclose(constraints.radial_beta_hat(2.0, beta), 2 * expected, atol=1e-14)
    gradient = jax.vmap(jax.grad(lambda b: constraints.radial_beta_hat(1.0, b)))(beta)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(beta + shift), atol=1e-14)


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


@pytest.mark.usefixtures("x64")
def test_orthonormal_columns_are_those_of_gram_schmidt():
    a = np.random.RandomState(0).randn(3, 5, 4)
    q = np.asarray(orthogonal.orthonormal(jnp.asarray(a)))
    for one, matrix in zip(q, a, strict=True):
        expected = np.zeros((5, 0))
        for column in matrix.T:
            rest = column - expected @ (expected.T @ column)
            expected = np.c_[expected, rest / np.linalg.norm(rest)]
        np.testing.assert_allclose(one, expected, atol=1e-13)
    np.testing.assert_array_equal(orthogonal.orthonormal(jnp.eye(4, 2)), np.eye(4, 2))
    with pytest.raises(
        ValueError, match=r"at most D columns can be orthonormal, got a matrix of shape \(2, 3\)"
    ):
        orthogonal.orthonormal(jnp.ones((2, 3)))


@pytest.mark.usefixtures("x64")
def test_forward_substitution_solves_triangular_systems():
    a = jnp.tril(np.random.RandomState(0).randn(6, 6), -1)
    x = np.random.RandomState(1).randn(3, 6)
    z, log_det = forward_substitution(lambda z, x, i: ((x - z @ a[i]) / 2, i * 1.0), jnp.asarray(x))
    expected = scipy.linalg.solve_triangular(2 * np.eye(6) + a, x.T, lower=True).T
    np.testing.assert_allclose(z, expected, atol=1e-12)
    np.testing.assert_array_equal(log_det, np.full(3, 15.0))


def test_gate_is_finite_at_its_ends():
    shift, log_scale = gate(jnp.full(2, 3.0), jnp.array([-200.0, 200.0]))
    np.testing.assert_allclose(shift, [3.0, 0.0], atol=1e-30)
    np.testing.assert_allclose(log_scale, [-200.0, 0.0], atol=1e-30)
