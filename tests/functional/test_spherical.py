"""The von Mises-Fisher law equals Bessel functions, quadrature in the angle, and its closed forms for m = 2 and 3."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dlvm_jax.functional import spherical as s
from tests.functional.common import checks, quadrature

DIMS = (2, 3, 6, 41, 129)
CONCENTRATIONS = np.array([0.0, 1e-6, 1e-3, 0.1, 1.0, 5.0, 30.0, 300.0, 1e4, 1e5])
# In float32 logarithms of about 100 nats and sums of 64 terms are right to 1e-5 of their size.
TOLERANCE = {jnp.float32: 1e-5, jnp.float64: 1e-11}


def on_axis(dim, dtype=float):
    return jnp.zeros(dim, dtype).at[0].set(1)


def bessel(dim, concentration):
    """A_m(kappa) and log of the density at the mode, from SciPy; NaN where its Bessel functions underflow."""
    order = dim / 2 - 1
    scaled = scipy.special.ive(order, concentration)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mode = order * np.log(concentration) - dim / 2 * np.log(2 * np.pi) - np.log(scaled)
        length = scipy.special.ive(order + 1, concentration) / scaled
    bad = (scaled < 1e-280) | (concentration == 0)
    return np.where(bad, np.nan, length), np.where(bad, np.nan, log_mode)


@checks(s.mean_resultant_length, s.von_mises_fisher_log_prob)
@pytest.mark.parametrize("dim", DIMS)
def test_normaliser_and_mean_length_equal_bessel_functions(dtype, dim):
    concentration = jnp.asarray(CONCENTRATIONS, dtype)
    length, log_mode = bessel(dim, np.asarray(concentration, np.float64))
    known = ~np.isnan(length)
    assert known.sum() >= 5
    mu = on_axis(dim, dtype)
    np.testing.assert_allclose(
        s.mean_resultant_length(concentration, dim)[known], length[known], rtol=TOLERANCE[dtype]
    )
    got = s.von_mises_fisher_log_prob(mu, mu, concentration)
    np.testing.assert_allclose(got[known], log_mode[known], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert np.isfinite(got).all()


@pytest.mark.parametrize("dim", DIMS)
def test_derivative_of_the_mean_length(x64, dim):
    """dA/dkappa = 1 - A^2 - (m-1) A / kappa, a difference that itself loses digits for large and small kappa."""
    concentration = jnp.asarray([0.1, 1.0, 5.0, 30.0, 300.0])
    length = s.mean_resultant_length(concentration, dim)
    got = jax.jit(jax.vmap(jax.grad(lambda k: s.mean_resultant_length(k, dim))))(concentration)
    np.testing.assert_allclose(got, 1 - length**2 - (dim - 1) * length / concentration, rtol=1e-8)
    at_zero = jax.grad(lambda k: s.mean_resultant_length(k, dim))(0.0)
    np.testing.assert_allclose(at_zero, 1 / dim, rtol=1e-12)


@checks(s.von_mises_fisher_kl_uniform)
def test_kl_from_uniform_equals_known_values(dtype):
    """Ten printed digits; quadrature in the angle and the closed form agree on them."""
    known = {
        (2, 1): 0.2104756074,
        (3, 2): 0.4794092494,
        (6, 5): 1.2277230067,
        (11, 20): 4.8509534357,
        (41, 60): 14.7591452483,
    }
    for (dim, concentration), value in known.items():
        got = s.von_mises_fisher_kl_uniform(jnp.asarray(concentration, dtype), dim)
        np.testing.assert_allclose(got, value, rtol=5e-6 if dtype == jnp.float32 else 1e-9)


@pytest.mark.parametrize("dim", [2, 3, 11])
def test_kl_is_zero_at_zero_and_gaussian_for_large_concentration(x64, dim):
    """For large kappa it is the KL of a Gaussian of variance 1 / kappa on the tangent plane, to a relative O(m^2 / kappa)."""
    assert abs(float(s.von_mises_fisher_kl_uniform(0.0, dim))) < 1e-12
    uniform = -float(s.uniform_sphere_log_prob(on_axis(dim)))
    gaussian = uniform - (dim - 1) / 2 * np.log(2 * np.pi * np.e / 1e6)
    assert float(s.von_mises_fisher_kl_uniform(1e6, dim)) == pytest.approx(gaussian, abs=dim**2 / 1e6)
    gradient = jax.grad(lambda k: s.von_mises_fisher_kl_uniform(k, dim))
    slope = jax.grad(lambda k: s.mean_resultant_length(k, dim))(3.0)
    assert float(gradient(3.0)) == pytest.approx(3 * float(slope), rel=1e-10)  # kappa dA / dkappa


@checks(s.uniform_sphere_log_prob)
def test_densities_integrate_to_one(x64):
    """On the circle by quadrature in the angle; on the sphere, by symmetry, along the axis."""
    angle, weight = quadrature(-np.pi, np.pi, 200)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    mu = jnp.array([np.cos(2.0), np.sin(2.0)])
    got = s.von_mises_fisher_log_prob(circle, mu, 4.0)
    np.testing.assert_allclose(got, scipy.stats.vonmises(4.0, 2.0).logpdf(angle), atol=1e-12)
    assert float(weight @ jnp.exp(s.uniform_sphere_log_prob(circle))) == pytest.approx(1, abs=1e-12)
    height, weight = quadrature(-1, 1, 60)
    points = jnp.stack([jnp.sqrt(1 - height**2), 0 * height, height], -1)
    density = jnp.exp(s.von_mises_fisher_log_prob(points, jnp.array([0.0, 0.0, 1.0]), 7.0))
    assert float(2 * np.pi * weight @ density) == pytest.approx(1, abs=1e-12)
    uniform = jnp.exp(s.uniform_sphere_log_prob(points))
    assert float(2 * np.pi * weight @ uniform) == pytest.approx(1, abs=1e-12)


def cdf_of_height(dim, concentration, height):
    """P(mu.x <= height) by quadrature, in float64."""

    def integral(low, high):
        t, w = np.polynomial.legendre.leggauss(200)
        angle = (high - low)[..., None] / 2 * (t + 1) + low[..., None]
        density = np.exp(concentration * (np.cos(angle) - 1)) * np.sin(angle) ** (dim - 2)
        return (density * w).sum(-1) * (high - low) / 2

    angle = np.arccos(np.clip(height, -1, 1))
    above = integral(np.zeros_like(angle), angle)
    below = integral(angle, np.full_like(angle, np.pi))
    return below / (above + below)


@checks(s.von_mises_fisher_sample)
@pytest.mark.parametrize("dim, concentration", [(2, 0.0), (3, 0.5), (5, 2.0), (41, 60.0)])
def test_samples_follow_the_density(dtype, dim, concentration):
    """Kolmogorov-Smirnov along mu and, for the uniform side, along a normal of it; false alarm 1e-4 each."""
    mu = s.to_sphere(jax.random.normal(jax.random.key(1), (dim,), dtype))
    draw = jax.jit(lambda k: s.von_mises_fisher_sample(jax.random.key(2), mu, k, (20_000,)))
    x = draw(jnp.asarray(concentration, dtype))
    assert x.dtype == dtype
    np.testing.assert_allclose(jnp.linalg.norm(x, axis=-1), 1, atol=1e-6)
    height = np.asarray(x @ mu, np.float64)
    law = lambda t: cdf_of_height(dim, concentration, t)
    assert scipy.stats.kstest(height, law).pvalue > 1e-4
    normal = s.to_sphere(jnp.zeros(dim, dtype).at[-1].set(1) - mu[-1] * mu)
    side = np.asarray(x @ normal, np.float64) / np.sqrt(np.maximum(1 - height**2, 1e-12))
    if dim == 2:
        assert scipy.stats.binomtest(int((side > 0).sum()), len(side)).pvalue > 1e-4
    else:
        assert (
            scipy.stats.kstest((side + 1) / 2, scipy.stats.beta(dim / 2 - 1, dim / 2 - 1).cdf).pvalue > 1e-4
        )


@pytest.mark.parametrize("dim, concentration", [(3, 0.5), (5, 2.0), (5, 1e-9)])
def test_the_angle_solves_its_cdf_up_to_the_poles(x64, dim, concentration):
    """Relative to the smaller tail, from 1e-9 on: arccos near the poles loses 7 digits of 16, a Newton step too few far more."""
    tails = np.geomspace(1e-9, 0.5, 60)
    height = lambda uniform: np.cos(s._angle(jnp.asarray(uniform), jnp.asarray(concentration), dim))
    np.testing.assert_allclose(cdf_of_height(dim, concentration, height(1 - tails)), tails, rtol=1e-5)
    mirrored = cdf_of_height(dim, -concentration, -height(tails))  # the tail at the mean
    np.testing.assert_allclose(mirrored, tails, rtol=1e-5)


@pytest.mark.parametrize("dim", [4, 2])
def test_samples_lie_about_any_axis(dim):
    """Each coordinate axis, both ways: a reflection that takes one to the other has no direction where they are the same.

    1 - mu.x is Gamma((m - 1) / 2) / kappa: below 40 / kappa but for a chance of 1e-11 each.
    """
    axes = jnp.concatenate([jnp.eye(dim), -jnp.eye(dim)])
    x = s.von_mises_fisher_sample(jax.random.key(0), axes, 1e4 * jnp.ones(2 * dim), (50,))
    assert (1 - jnp.sum(x * axes, -1) < 40 / 1e4).all()


@checks(s.uniform_sphere_sample)
def test_uniform_samples_are_uniform():
    """On the sphere each coordinate is uniform (Archimedes); false alarm 1e-4 each."""
    x = np.asarray(s.uniform_sphere_sample(jax.random.key(0), 3, (20_000,)))
    for column in x.T:
        assert scipy.stats.kstest(column, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_pathwise_gradient_of_every_draw_is_the_closed_form_on_the_sphere(x64):
    """For m = 3 the cdf of w = mu.x is elementary, and dw/dkappa = -(dF/dkappa) / f(w)."""
    mu = s.to_sphere(jnp.array([0.3, -2.0, 1.0]))

    def cdf(k, w):
        return jnp.expm1(k * (w + 1)) / jnp.expm1(2 * k)

    @jax.jit
    def slopes(k):
        def draw(k):
            return s.von_mises_fisher_sample(jax.random.key(3), mu, k, (500,)) @ mu

        w, slope = jax.jvp(draw, (k,), (jnp.ones(()),))
        by_k, by_w = (jax.vmap(jax.grad(cdf, place), (None, 0))(k, w) for place in (0, 1))
        return slope, -by_k / by_w

    for concentration in (0.3, 3.0, 40.0):
        slope, expected = slopes(jnp.asarray(concentration))
        scale = float(jnp.abs(expected).max())  # the closed form cancels near w = 1
        np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-8 * scale)


def test_slope_of_the_angle_keeps_its_digits_in_both_tails():
    """In float32 against double precision: the integral over the other side of the mode cancels down to a small tail."""
    tails = np.array([1e-6, 1e-4, 1e-2], np.float32)
    slope = lambda u, k: jax.jvp(lambda k: s._angle(u, k, 5), (k,), (jnp.ones_like(k),))[1]
    for uniform in (tails, 1 - tails[1:]):
        single = jax.jit(slope)(uniform, np.full(len(uniform), 2.0, np.float32))
        with jax.enable_x64(True):
            double = jax.jit(slope)(uniform.astype(float), np.full(len(uniform), 2.0))
        np.testing.assert_allclose(single, double, rtol=1e-4)


@pytest.mark.parametrize("dim, concentration, known", [(5, 2.0, 0.14738869), (11, 5.0, None), (2, 0.0, 0.5)])
def test_pathwise_gradient_in_the_concentration_is_unbiased(x64, dim, concentration, known):
    """E[d(mu.x)/dkappa] = dA/dkappa; five standard errors, false alarm 6e-7.

    The rejection sampler differentiated through its accepted proposals gives .1277 for the first, 60 of these errors away.
    """
    mu = on_axis(dim)

    def draw(k):
        return s.von_mises_fisher_sample(jax.random.key(4), mu, k, (20_000,)) @ mu

    _, slope = jax.jit(lambda k: jax.jvp(draw, (k,), (jnp.ones(()),)))(jnp.asarray(concentration))
    exact = float(jax.jit(jax.grad(lambda k: s.mean_resultant_length(k, dim)))(concentration))
    assert known is None or exact == pytest.approx(known, abs=1e-8)
    slope = np.asarray(slope)
    assert abs(slope.mean() - exact) < 5 * slope.std() / np.sqrt(len(slope))


def test_pathwise_gradient_in_the_mean_direction_is_unbiased(x64):
    """E[a.x] = A a.mu, differentiated along the sphere; five standard errors, false alarm 6e-7 an entry."""
    dim, raw, a = 4, jnp.array([0.5, -1.0, 0.2, 0.9]), jnp.array([1.0, 2.0, -1.0, 0.3])

    def heights(raw):
        return s.von_mises_fisher_sample(jax.random.key(5), s.to_sphere(raw), 3.0, (20_000,)) @ a

    gradient = np.asarray(jax.jit(jax.jacfwd(heights))(raw))
    length = s.mean_resultant_length(3.0, dim)
    exact = jax.grad(lambda raw: length * (s.to_sphere(raw) @ a))(raw)
    error = gradient.std(0) / np.sqrt(len(gradient))
    assert (np.abs(gradient.mean(0) - exact) < 5 * error).all()


@pytest.mark.parametrize("dim", [2, 3, 41])
@pytest.mark.parametrize("flip", [1, -1])
def test_nothing_is_nan_at_the_ends(dtype, dim, flip):
    """mu = +-e1, kappa from 0 to 1e5: samples, their log-densities, the KL, and all gradients are finite."""
    concentration = jnp.asarray(CONCENTRATIONS, dtype)
    raw = flip * jnp.broadcast_to(on_axis(dim, dtype), (len(concentration), dim))

    def loss(raw, concentration):
        mu = s.to_sphere(raw)
        x = s.von_mises_fisher_sample(jax.random.key(6), mu, concentration, (20,))
        log_q = s.von_mises_fisher_log_prob(x, mu, concentration)
        return (x.sum() + log_q.sum() + s.von_mises_fisher_kl_uniform(concentration, dim).sum()), x

    (value, x), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(raw, concentration)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_allclose(jnp.linalg.norm(x, axis=-1), 1, atol=1e-6)
    assert x.shape == (20, len(concentration), dim)


@checks(s.to_sphere)
def test_zero_goes_to_the_sphere_and_shapes_broadcast():
    np.testing.assert_allclose(
        s.to_sphere(jnp.array([[3.0, -4.0], [0.0, 0.0]])), [[0.6, -0.8], [0.5**0.5] * 2]
    )
    assert np.isfinite(jax.jacfwd(s.to_sphere)(jnp.zeros(3))).all()
    np.testing.assert_allclose(jnp.linalg.norm(s.to_sphere(jnp.array([0.0, 1e-30]))), 1, rtol=1e-6)
    x = s.uniform_sphere_sample(jax.random.key(0), 3, (5, 1))
    mu = s.uniform_sphere_sample(jax.random.key(1), 3, (4,))
    both = jax.jit(s.von_mises_fisher_log_prob)(x, mu, jnp.arange(4.0))
    assert both.shape == (5, 4)
    one = jax.jit(jax.vmap(s.von_mises_fisher_log_prob, (None, 0, 0)))(x[2, 0], mu, jnp.arange(4.0))
    np.testing.assert_allclose(both[2], one, rtol=1e-6)


def test_a_point_is_no_sphere():
    for call in (
        lambda: s.uniform_sphere_sample(jax.random.key(0), 1),
        lambda: s.von_mises_fisher_kl_uniform(1.0, 1),
        lambda: s.von_mises_fisher_sample(jax.random.key(0), jnp.ones(1), 1.0),
    ):
        with pytest.raises(ValueError, match="ambient dimension of at least 2"):
            call()
    with pytest.raises(ValueError, match="ambient dimension is an integer, known when tracing, got"):
        s.mean_resultant_length(1.0, 2.5)
    with pytest.raises(ValueError, match=r"points on the sphere in R\^3"):
        s.von_mises_fisher_log_prob(on_axis(2), on_axis(3), 1.0)


@pytest.mark.parametrize("dim", [2, 3, 41])
def test_the_extreme_random_numbers_give_finite_draws_and_gradients(dim, monkeypatch):
    """One draw in eight million meets them: a training run does.  The lowest and the highest in turn."""

    def extreme(key, shape, dtype, minval=0.0):
        return jnp.stack([jnp.full(4, minval, dtype), jnp.full(4, 1 - 2.0**-24, dtype)])

    monkeypatch.setattr(jax.random, "uniform", extreme)
    concentration = jnp.array([1e-3, 1.0, 30.0, 1e4])
    mean_direction = jnp.broadcast_to(jnp.eye(dim)[0], (4, dim))

    @jax.jit
    def draw(concentration, mean_direction):
        x = s.von_mises_fisher_sample(jax.random.key(0), mean_direction, concentration, (2,))
        return x, jax.grad(
            lambda k, m: s.von_mises_fisher_sample(jax.random.key(0), m, k, (2,))[..., 0].sum(), (0, 1)
        )(concentration, mean_direction)

    assert all(np.isfinite(value).all() for value in jax.tree.leaves(draw(concentration, mean_direction)))
