"""The wrapped normal and the maps of the Poincare ball: against the hyperboloid, quadrature, autodiff and the flat limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.functional import densities
from dlvm_jax.functional import hyperbolic as h
from tests.functional.common import checks, quadrature

CURVATURES = (0.7, 1.4)
MEAN, LOG_STD = np.array([0.3, -0.4]), np.array([-0.3, 0.2])


def points(seed, count, dim, curvature, reach=2.0):
    """Points of the ball, up to a few times `reach` from the origin."""
    tangent = reach * jax.random.normal(jax.random.key(seed), (count, dim))
    return h.exp_map(jnp.zeros(dim), tangent, curvature)


def volume(x, curvature):
    """The Riemannian volume per unit of plain volume."""
    return (2 / (1 - curvature * np.sum(np.square(x), -1))) ** x.shape[-1]


def disk(curvature):
    """Nodes on the disk with weights of Riemannian volume, in geodesic polar coordinates, out to a distance of 14."""
    r, weight = quadrature(0.0, 14.0, 200)
    turn = 2 * np.pi * np.arange(128) / 128
    root = np.sqrt(curvature)
    direction = np.stack([np.cos(turn), np.sin(turn)], -1)
    x = (np.tanh(root * r / 2) / root)[:, None, None] * direction
    area = weight * np.sinh(root * r) / root * 2 * np.pi / 128
    return x, np.broadcast_to(area[:, None], x.shape[:2])


@pytest.mark.parametrize("curvature", CURVATURES)
def test_density_integrates_to_one(x64, curvature):
    """The centre is 2 from the origin at most; what lies beyond 14 is below 1e-13."""
    x, area = disk(curvature)
    for mean, log_std in ((np.zeros(2), np.zeros(2)), (MEAN, LOG_STD)):
        total = np.sum(area * np.exp(h.wrapped_normal_log_prob(x, mean, log_std, curvature)))
        assert total == pytest.approx(1, abs=1e-10)


def hyperboloid_log_prob(x, mean, log_std, curvature):
    """The same density on the hyperboloid -x0^2 + x.x = -1/c: project, parallel transport, log map (Nagano et al. 2019)."""
    root = np.sqrt(curvature)

    def lift(p):
        square = curvature * np.sum(p * p, -1, keepdims=True)
        return np.concatenate([1 + square, 2 * root * p], -1) / (1 - square)  # in units of 1 / sqrt(c)

    def inner(a, b):
        return np.sum(a[..., 1:] * b[..., 1:], -1, keepdims=True) - a[..., :1] * b[..., :1]

    z, m = lift(x), lift(np.broadcast_to(mean, x.shape))
    origin = np.zeros_like(m)
    origin[..., 0] = 1
    cosh = -inner(m, z)
    r = np.arccosh(cosh)
    u = r / np.sqrt(cosh**2 - 1) * (z - cosh * m)
    v = u + inner(origin - (-inner(m, origin)) * m, u) / (-inner(m, origin) + 1) * (m + origin)
    np.testing.assert_allclose(v[..., 0], 0, atol=1e-8)
    np.testing.assert_allclose(inner(v, v), inner(u, u), rtol=1e-8)
    gaussian = scipy.stats.norm(0, np.exp(log_std)).logpdf(v[..., 1:] / root).sum(-1)
    return gaussian - (x.shape[-1] - 1) * np.log(np.sinh(r) / r)[..., 0]


@checks(h.wrapped_normal_log_prob)
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_density_equals_that_of_the_hyperboloid(x64, curvature, dim):
    """In float64 the hyperboloid's arccosh and differences keep eight digits at these distances."""
    x, mean = points(0, 50, dim, curvature, 1.0), np.asarray(points(1, 1, dim, curvature, 1.0)[0])
    log_std = np.linspace(-0.5, 0.3, dim)
    expected = hyperboloid_log_prob(np.asarray(x), mean, log_std, curvature)
    got = h.wrapped_normal_log_prob(x, mean, log_std, curvature)
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7)


@checks(h.tangent_log_prob)
def test_the_density_of_a_tangent_vector_is_that_of_its_end(x64):
    """Near ends on the hyperboloid; far ones, at lengths up to 1e4, by SciPy and sinh r = e^r / 2."""
    mean, log_std, curvature = np.array([0.1, 0.3, -0.2]), np.array([-0.3, 0.0, 0.4]), 1.4
    tangent = np.random.RandomState(0).randn(20, 3)
    end = np.asarray(h.exp_map(mean, tangent, curvature))
    got = h.tangent_log_prob(tangent, log_std, curvature)
    np.testing.assert_allclose(got, hyperboloid_log_prob(end, mean, log_std, curvature), rtol=1e-6)
    far = tangent * np.geomspace(30, 1e4, 20)[:, None]
    r = np.sqrt(curvature) * np.linalg.norm(far, axis=-1)
    expected = scipy.stats.norm(0, np.exp(log_std)).logpdf(far).sum(-1) - 2 * (r - np.log(2 * r))
    np.testing.assert_allclose(h.tangent_log_prob(far, log_std, curvature), expected, rtol=1e-12)


@checks(h.log_volume_change)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_log_volume_change_equals_the_autodiff_jacobian(x64, curvature):
    """The Jacobian of the exponential map, between the flat volume and the Riemannian one, for several dimensions."""
    for dim in (1, 2, 5):
        base = points(2, 1, dim, curvature)[0]
        slopes = jax.jit(jax.jacfwd(lambda v: h.exp_map(base, v, curvature)))  # noqa: B023
        for tangent in np.random.RandomState(0).randn(4, dim) * [[0.01], [0.3], [1.0], [3.0]]:
            end = h.exp_map(base, tangent, curvature)
            expected = np.linalg.slogdet(slopes(jnp.asarray(tangent)))[1] + np.log(
                volume(np.asarray(end), curvature)
            )
            assert float(h.log_volume_change(tangent, curvature)) == pytest.approx(expected, abs=1e-8)


def test_flat_limit(x64):
    """As c -> 0 the ball is R^D with the metric 4 dx^2: a Gaussian in 2 x, with an error of order c."""
    x = np.random.RandomState(0).randn(6, 3)
    mean, log_std = np.array([0.1, 0.2, -0.5]), np.array([0.3, 0.0, -0.4])
    expected = densities.normal_log_prob(2 * x, 2 * mean, log_std)
    for curvature, tolerance in ((1e-10, 1e-8), (0.0, 1e-12)):
        got = h.wrapped_normal_log_prob(x, mean, log_std, curvature)
        np.testing.assert_allclose(got, expected, rtol=tolerance)
        np.testing.assert_allclose(
            h.distance(x, mean, curvature), 2 * np.linalg.norm(x - mean, axis=-1), rtol=1e-8
        )
        np.testing.assert_allclose(h.exp_map(mean, x, curvature), mean + x / 2, rtol=1e-8)


@checks(h.exp_map, h.log_map, h.distance)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_exp_and_log_are_inverse_and_lengths_are_distances(x64, curvature):
    """Points up to distance 12, where 1 - c |x|^2 still has ten digits."""
    base, tangent = points(3, 200, 3, curvature, 1.0), 2 * jax.random.normal(jax.random.key(4), (200, 3))
    x = h.exp_map(base, tangent, curvature)
    np.testing.assert_allclose(h.log_map(base, x, curvature), tangent, rtol=1e-7, atol=1e-9)
    length = np.linalg.norm(tangent, axis=-1)
    np.testing.assert_allclose(h.distance(base, x, curvature), length, rtol=1e-8)
    np.testing.assert_allclose(h.distance(x, base, curvature), length, rtol=1e-8)
    through = h.mobius_add(-base, h.mobius_add(base, x, curvature), curvature)  # left cancellation
    np.testing.assert_allclose(through, x, rtol=1e-7, atol=1e-9)


@checks(h.mobius_add)
def test_mobius_addition_equals_the_textbook_form(x64):
    x, y, c = points(5, 20, 3, 1.4, 0.5), points(6, 20, 3, 1.4, 0.5), 1.4
    xy, xx, yy = ((a * b).sum(-1, keepdims=True) for a, b in ((x, y), (x, x), (y, y)))
    expected = ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c**2 * xx * yy)
    np.testing.assert_allclose(h.mobius_add(x, y, c), expected, rtol=1e-10)


def test_kl_of_two_equals_quadrature(x64):
    """Over the disk, and over the tangent plane of the first, which has its own coordinates; both to 1e-6."""
    curvature, other = 1.0, (np.array([-0.1, 0.2]), np.array([0.1, 0.0]))
    x, area = disk(curvature)
    log_q = h.wrapped_normal_log_prob(x, MEAN, LOG_STD, curvature)
    log_p = h.wrapped_normal_log_prob(x, *other, curvature)
    over_disk = np.sum(area * np.exp(log_q) * (log_q - log_p))
    node, weight = quadrature(-8, 8, 80)
    eps = np.stack(np.meshgrid(node, node), -1)
    tangent = np.exp(LOG_STD) * eps
    end = h.exp_map(MEAN, tangent, curvature)
    log_ratio = densities.normal_log_prob(tangent, 0.0, LOG_STD) - h.log_volume_change(tangent, curvature)
    log_ratio = log_ratio - h.wrapped_normal_log_prob(end, *other, curvature)
    gauss = np.exp(-0.5 * np.sum(eps**2, -1)) / (2 * np.pi)
    assert over_disk == pytest.approx(float(np.sum(np.outer(weight, weight) * gauss * log_ratio)), abs=1e-6)
    assert over_disk > 0.1


@checks(h.wrapped_normal_sample)
def test_samples_follow_the_density():
    """In the tangent frame they are the Gaussian's; each p-value above 1e-4, the false-alarm rate."""
    x = h.wrapped_normal_sample(jax.random.key(0), jnp.asarray(MEAN), jnp.asarray(LOG_STD), 1.4, (20_000,))
    assert x.shape == (20_000, 2) and (1.4 * np.sum(np.square(x), -1) < 1).all()
    standard = np.asarray(h.log_map(jnp.asarray(MEAN), x, 1.4) / jnp.exp(LOG_STD))
    for column in standard.T:
        assert scipy.stats.kstest(column, scipy.stats.norm().cdf).pvalue > 1e-4
    assert scipy.stats.pearsonr(*standard.T).pvalue > 1e-4


def test_far_points_stay_inside_and_gradients_finite(dtype):
    """Tangents of length 0 to 1e4: the point is inside, its log-density and all gradients are finite."""
    tangent = jnp.asarray(
        [[0, 0], [1e-25, 0], [1e-8, 1e-8], [0.1, 0], [3, -2], [10, 10], [100, 0], [1e4, 1e4]], dtype
    )

    def loss(tangent, base):
        x = h.exp_map(base, tangent, 1.0)
        log_p = h.wrapped_normal_log_prob(x, jnp.zeros_like(base), jnp.zeros_like(base), 1.0)
        both = h.log_volume_change(tangent, 1.0) + h.distance(x, base, 1.0)
        return jnp.sum(log_p + both), x

    for base in (jnp.zeros_like(tangent), jnp.full_like(tangent, 0.5)):
        (value, x), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(tangent, base)
        assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
        assert (jnp.sum(jnp.square(x), -1) < 1).all()


def test_distances_up_to_ten_survive_single_precision():
    """At distance 10 a point in float32 is known to about 1e-3 of a length; the textbook artanh of its norm is no better."""
    tangent = jnp.array([[10.0, 0.0], [0.0, 5.0], [0.6, 0.8], [1e-4, 0.0]])
    x = h.exp_map(jnp.zeros(2), tangent, 1.0)
    np.testing.assert_allclose(h.log_map(jnp.zeros(2), x, 1.0), tangent, rtol=2e-4)
    small = h.distance(jnp.array([0.3, 0.2]), jnp.array([0.3 + 1e-4, 0.2]), 1.0)
    np.testing.assert_allclose(small, 2e-4 / (1 - 0.13), rtol=1e-3)  # the rounding of 0.3 + 1e-4
    assert (np.asarray(jax.grad(h.distance)(x[0], x[0], 1.0)) == 0).all()


def test_outside_the_ball_there_is_no_distance(dtype):
    """One point outside, or both, for which the formulas give 0 or a finite number; with its relatives."""
    inside, outside = jnp.array([[0.3, 0.2], [0.0, 0.0]], dtype), jnp.array([[0.9, 0.9], [-1.5, 0.0]], dtype)
    for pair in ((inside, outside), (outside, inside), (outside, outside[::-1])):
        assert np.isnan(h.distance(*pair, 1.0)).all() and np.isnan(h.log_map(*pair, 1.0)).all()
        assert np.isnan(h.wrapped_normal_log_prob(*pair, jnp.zeros(2, dtype), 1.0)).all()
        assert np.isfinite(h.distance(*pair, 0.3)).all()  # a wider ball holds them all


@pytest.mark.parametrize("at", [0.099999, 0.100001])
def test_series_and_closed_forms_meet(x64, at):
    """The switch to the series lies at length 0.1; both sides against extended precision."""
    t = np.longdouble(at)
    expected = float(np.log(np.sinh(t) / t))
    assert float(h.log_volume_change(jnp.array([at, 0.0]), 1.0)) == pytest.approx(expected, rel=1e-11)
    assert float(h.exp_map(jnp.zeros(1), jnp.array([at]), 1.0)[0]) == pytest.approx(
        float(np.tanh(t / 2)), rel=1e-13
    )
    x = np.sinh(t / 2) / np.cosh(t / 2)
    assert float(h.distance(jnp.zeros(1), jnp.array([float(x)]), 1.0)) == pytest.approx(at, rel=1e-13)


@checks(h.end_distance)
def test_the_end_of_a_far_geodesic(x64):
    """Against the point itself, which float64 holds up to 35 / sqrt(c); beyond, the law of cosines in extended precision."""
    r = np.random.RandomState(0)
    base = h.exp_map(jnp.zeros((50, 3)), jnp.asarray(r.randn(50, 3)), 2.0)
    base = base.at[0].set(0)
    tangent = jnp.asarray(r.randn(50, 3)) * jnp.linspace(4, 7, 50)[:, None]
    expected = h.distance(jnp.zeros((50, 3)), h.exp_map(base, tangent, 2.0), 2.0)
    far = (expected > 9) & (expected < 16)
    assert far.sum() > 10
    got = h.end_distance(base, tangent, 2.0)
    np.testing.assert_allclose(got[far], expected[far], rtol=1e-6)

    tangent = 300 * tangent
    lengths = (h.distance(jnp.zeros((50, 3)), base, 2.0), jnp.linalg.norm(tangent, axis=-1))
    a, b = (np.sqrt(np.longdouble(2)) * np.asarray(length, np.longdouble) for length in lengths)
    cosine = (
        np.sum(np.asarray(base) * tangent, -1)
        / np.maximum(np.linalg.norm(base, axis=-1), 1e-300)
        / lengths[1]
    )
    near = np.asarray(b < 10_000)  # extended precision ends at e^11356
    cosh = np.cosh(a) * np.cosh(b) + np.sinh(a) * np.sinh(b) * np.asarray(cosine)
    expected = np.asarray(np.arccosh(cosh[near]) / np.sqrt(np.longdouble(2)), float)
    assert near.sum() > 40
    np.testing.assert_allclose(h.end_distance(base, tangent, 2.0)[near], expected, rtol=1e-12)
