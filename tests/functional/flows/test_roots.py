"""Roots of increasing functions: accuracy, hard cases, implicit derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional.flows.roots import monotone_root
from tests.functional.common import checks


def cubic(a):
    return lambda x: x**3 + a * x


@checks(monotone_root)
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


@checks(monotone_root)
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
