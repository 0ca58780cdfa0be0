"""Numerics at the edges of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dlvm_jax.functional import numerics
from tests.functional.common import checks, quadrature


@checks(numerics.log1mexp)
def test_log1mexp_is_accurate_from_tiny_to_huge():
    """Against double precision, where the naive formula loses half its digits below 1e-8; a few float32 units."""
    x = np.logspace(-30, 1.9, 200).astype(np.float32).astype(np.float64)
    with np.errstate(divide="ignore"):
        expected = np.where(x < 0.1, np.log(-np.expm1(-x)), np.log1p(-np.exp(-x)))
    np.testing.assert_allclose(
        numerics.log1mexp(jnp.asarray(x, jnp.float32)), expected, rtol=1e-6, atol=1e-37
    )


def test_log1mexp_has_finite_gradients():
    gradient = jax.vmap(jax.grad(numerics.log1mexp))(jnp.array([1e-20, 0.5, 0.6931472, 1.0, 200.0]))
    assert np.isfinite(gradient).all()


@checks(numerics.log_normal_cdf)
def test_log_normal_cdf_and_its_gradient_equal_scipy_in_every_tail(dtype):
    """Rounding: of -x^2 / 2 on the left, of the exponent 12.5 in 1 - Phi(5); the gradient is phi / Phi, about -x far out."""
    x = np.array([-1e3, -40.0, -8.1, -7.9, -1.0, 0.0, 1.0, 5.0])
    value, slope = jax.vmap(jax.value_and_grad(numerics.log_normal_cdf))(jnp.asarray(x, dtype))
    expected = scipy.special.log_ndtr(x)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(value, expected, rtol=20 * eps, atol=1e-37)
    ratio = np.exp(scipy.stats.norm.logpdf(x) - expected)  # SciPy's own rounding of exponents of size 5e5
    np.testing.assert_allclose(slope, ratio, rtol=max(30 * eps, 1e-9), atol=1e-37)


@checks(numerics.log_normal_interval)
def test_log_normal_interval_equals_quadrature_wherever_it_lies(dtype):
    """Gauss-Legendre in the bin, the density at the middle taken out; widths on both sides of the change of formula."""
    middle, width = np.meshgrid([-30.0, -3.0, -0.1, 0.0, 2.0, 25.0], [1e-6, 0.01, 0.7, 1.9, 2.5])
    nodes, weights = quadrature(-0.5, 0.5, 200)
    falls = -width[..., None] * nodes * (middle[..., None] + width[..., None] * nodes / 2)
    expected = scipy.stats.norm.logpdf(middle) + np.log(width * (np.exp(falls) @ weights))
    ends = (jnp.asarray(middle + side * width / 2, dtype) for side in (-1, 1))
    found = numerics.log_normal_interval(*ends, jnp.asarray(width, dtype))
    # rounding of the middle by eps |m| has a slope of |m|; the remainder of eight nodes is w^17 (8!)^4 15!! / (17 (16!)^3)
    atol = 3e3 * float(jnp.finfo(dtype).eps) + 3e-12
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)

    def moved(m, w):
        return numerics.log_normal_interval(m - w / 2, m + w / 2, w).sum()

    slope = jax.grad(moved)(jnp.asarray(middle, dtype), jnp.asarray(width, dtype))
    inside = (np.exp(falls) * nodes) @ weights / (np.exp(falls) @ weights)
    np.testing.assert_allclose(
        slope, -(middle + width * inside), atol=atol
    )  # minus the mean within the interval


@checks(numerics.log_mean_exp)
def test_log_mean_exp_does_not_overflow_and_averages_over_the_given_axis():
    values = jnp.array([[1000.0, -1000.0], [1000.0, -np.inf]])
    np.testing.assert_allclose(numerics.log_mean_exp(values), [1000.0, -1000.0 - np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(numerics.log_mean_exp(values, axis=1)[0], 1000.0 - np.log(2), rtol=1e-6)
    assert float(numerics.log_mean_exp(jnp.full(3, -jnp.inf))) == -np.inf


@checks(numerics.sum_event)
def test_sum_event_accumulates_bfloat16_in_float32():
    """10,000 times 1.0 in bfloat16 arithmetic stops at 256."""
    total = numerics.sum_event(jnp.ones((2, 100, 100), jnp.bfloat16), 2)
    assert total.dtype == jnp.float32 and (total == 10_000).all()


@checks(numerics.runge_kutta)
def test_a_runge_kutta_step_is_that_of_the_classical_method():
    """One step of y' = y is the exponential series to order four; of y' = g(t) it is Simpson's rule, exact for cubics."""
    with jax.enable_x64(True):
        (y, area) = numerics.runge_kutta(
            lambda state, t: (state[0], jnp.full(2, 4 * t**3 - 3 * t**2)),
            (jnp.float64(1.0), jnp.zeros(2)),
            jnp.array([1.0, 1.35, 1.7]),
            0.7,
        )
        np.testing.assert_allclose(y, 1 + 0.7 + 0.7**2 / 2 + 0.7**3 / 6 + 0.7**4 / 24, rtol=1e-14)
        np.testing.assert_allclose(area, np.full(2, 1.7**4 - 1.7**3), rtol=1e-14)


def test_runge_kutta_has_order_four_where_time_and_state_meet():
    """y' = -2 t y^2 is solved by 1 / (1 + t^2); twice the steps, a sixteenth of the error."""
    with jax.enable_x64(True):
        errors = [
            numerics.runge_kutta(
                lambda y, t: -2 * t * y**2, jnp.float64(1.0), jnp.linspace(0.0, 2.0, 2 * steps + 1), 2.0
            )
            - 1 / 5
            for steps in (40, 80, 160)
        ]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 16, rtol=0.05)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        numerics.runge_kutta(lambda y, t: y, 1.0, jnp.zeros(1), 0.0)


def test_too_few_axes_are_refused():
    with pytest.raises(ValueError, match="at least 2 event axes"):
        numerics.sum_event(jnp.ones(3), 2)


@checks(numerics.inner_product)
def test_inner_product_broadcasts_and_keeps_the_precision_it_is_given(dtype):
    rng = np.random.RandomState(0)
    a, b = rng.randn(4, 7), rng.randn(5, 4, 7)
    value = numerics.inner_product(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
    assert value.dtype == dtype
    np.testing.assert_allclose(value, (a * b).sum(-1), rtol=1e-4 if dtype == jnp.float32 else 1e-12)
    gradient = jax.grad(lambda a: numerics.inner_product(a, jnp.asarray(b, dtype)).sum())(
        jnp.asarray(a, dtype)
    )
    np.testing.assert_allclose(gradient, b.sum(0), rtol=1e-4)
