"""Exact laws of diffusion against autodiff, quadrature, dense linear algebra, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import process as p
from dlvm_jax.functional.diffusion import schedules, targets
from tests.functional.common import checks

PROCESSES = {
    "variance_preserving": (schedules.variance_preserving(), 0.3),
    "rectified": (schedules.rectified(), 0.4),
    "sub_variance_preserving": (schedules.sub_variance_preserving(), 0.3),
    "edm": (schedules.edm(), 0.7),
}
MEANS = np.array([[1.0, -0.5], [-2.0, 0.3], [0.5, 1.5]])
COVARIANCES = np.array([[[0.5, 0.3], [0.3, 0.9]], [[1.2, -0.4], [-0.4, 0.3]], [[0.05, 0.0], [0.0, 0.05]]])
WEIGHTS = np.array([0.5, 0.2, 0.3])
X = np.array([[0.3, -0.4], [-1.5, 2.0], [0.6, 1.4], [30.0, -20.0]])


@pytest.fixture(params=PROCESSES)
def at(request, x64):
    return PROCESSES[request.param]


@pytest.fixture
def law(x64):
    return exact.mixture(WEIGHTS, MEANS, COVARIANCES)


@checks(exact.mixture, exact.log_marginal, exact.responsibilities)
def test_marginal_equals_dense_gaussians(at, law):
    process, t = at
    a, s = float(p.alpha(process, t)), float(p.sigma(process, t))
    dense = [
        weight * scipy.stats.multivariate_normal(a * mean, a * a * cov + s * s * np.eye(2)).pdf(X[:3])
        for weight, mean, cov in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    ]
    np.testing.assert_allclose(exact.log_marginal(law, process, X[:3], t), np.log(sum(dense)), rtol=1e-10)
    shares = exact.responsibilities(law, process, X[:3], t)
    np.testing.assert_allclose(shares, (dense / sum(dense)).T, rtol=1e-8)


@checks(exact.score)
def test_score_is_the_gradient_and_tweedie_holds_to_second_order(at, law):
    """Score by autodiff; mean and covariance of x_0 from gradient and Hessian of log q(x_t)."""
    process, t = at
    log_q = lambda x: exact.log_marginal(law, process, x, t)
    score = exact.score(law, process, X, t)
    np.testing.assert_allclose(
        score, jax.jit(jax.vmap(jax.grad(log_q)))(jnp.asarray(X)), rtol=1e-9, atol=1e-12
    )
    mean = exact.denoiser(law, process, X, t)
    np.testing.assert_allclose(targets.to_x0(process, "score", score, X, t), mean, rtol=1e-7, atol=1e-9)
    a, s = p.alpha(process, t), p.sigma(process, t)
    hessian = jax.jit(jax.vmap(jax.hessian(log_q)))(jnp.asarray(X))
    covariance = (s / a) ** 2 * (jnp.eye(2) + s**2 * hessian)
    got = exact.posterior_covariance(law, process, X, t)
    np.testing.assert_allclose(got, covariance, rtol=1e-6, atol=1e-9)


@checks(exact.denoiser, exact.posterior_covariance)
def test_denoiser_equals_quadrature(x64):
    """A one-dimensional mixture: E[x_0 | x_t] and its variance by adaptive quadrature (1e-8)."""
    process, t, x = schedules.variance_preserving(), 0.4, 0.37
    law = exact.mixture([0.3, 0.7], [[-1.0], [2.0]], [[[0.2]], [[0.6]]])
    a, s = float(p.alpha(process, t)), float(p.sigma(process, t))

    def joint(x0):
        prior = 0.3 * scipy.stats.norm(-1, np.sqrt(0.2)).pdf(x0)
        prior += 0.7 * scipy.stats.norm(2, np.sqrt(0.6)).pdf(x0)
        return prior * scipy.stats.norm(a * x0, s).pdf(x)

    moment = lambda power: scipy.integrate.quad(lambda z: z**power * joint(z), -8, 9, epsabs=1e-12)[0]
    mean = moment(1) / moment(0)
    np.testing.assert_allclose(
        exact.log_marginal(law, process, np.array([x]), t), np.log(moment(0)), atol=1e-8
    )
    np.testing.assert_allclose(exact.denoiser(law, process, np.array([x]), t)[0], mean, atol=1e-8)
    variance = exact.posterior_covariance(law, process, np.array([x]), t)[0, 0]
    np.testing.assert_allclose(variance, moment(2) / moment(0) - mean**2, atol=1e-8)


def test_the_velocity_of_the_straight_path(law):
    """For alpha = 1 - t, sigma = t the exact velocity is E[eps - x_0 | x_t]."""
    process, t = schedules.rectified(), 0.4
    x0 = exact.denoiser(law, process, X, t)
    velocity = targets.from_x0(process, "velocity", x0, X, t)
    np.testing.assert_allclose(velocity, targets.from_x0(process, "epsilon", x0, X, t) - x0, rtol=1e-9)


@checks(exact.point_masses)
def test_point_masses_are_what_a_perfect_denoiser_returns(x64):
    points = np.random.RandomState(0).randn(6, 3)
    law = exact.point_masses(points)
    near = exact.denoiser(law, schedules.edm(), points + 0.01, 0.05)
    np.testing.assert_allclose(near, points, atol=1e-10)
    wide = exact.denoiser(law, schedules.edm(), points, 1e4)
    np.testing.assert_allclose(wide, np.broadcast_to(points.mean(0), points.shape), atol=1e-3)


@checks(exact.ode_map, exact.gaussian)
def test_ode_map_solves_the_ordinary_differential_equation(at):
    """dx/dt = f x - g^2 score / 2 integrated by DOP853 at tolerance 1e-10."""
    process, t = at
    s = 0.5 * t
    law = exact.gaussian(MEANS[0], COVARIANCES[0])

    def slope(time, x):
        g = p.diffusion(process, time)
        return p.drift(process, time) * x - 0.5 * g**2 * exact.score(law, process, x, time)

    end = scipy.integrate.solve_ivp(slope, (t, s), X[0], "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(exact.ode_map(law, process, X[0], t, s), end, rtol=1e-7)
    with pytest.raises(ValueError, match="one Gaussian, got 3 components"):
        exact.ode_map(exact.mixture(WEIGHTS, MEANS, COVARIANCES), process, X, t, s)


def test_a_clean_time_gives_the_law_of_the_data(law):
    expected = sum(
        w * scipy.stats.multivariate_normal(m, c).pdf(X[:3])
        for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    )
    got = exact.log_marginal(law, schedules.edm(), X[:3], 0.0)
    np.testing.assert_allclose(got, np.log(expected), rtol=1e-10)


@checks(exact.output_law)
def test_output_law_of_an_affine_sampler_and_refusal_of_another(x64):
    rng = np.random.RandomState(1)
    a, b, c = rng.randn(3, 3), rng.randn(2, 4, 3, 3), rng.randn(3)
    mean, root = rng.randn(3), rng.randn(3, 3)
    sampler = lambda x, z: a @ x + jnp.einsum("nkij,nkj->i", b, z) + c
    got_mean, got_covariance = exact.output_law(sampler, mean, root @ root.T, (2, 4))
    np.testing.assert_allclose(got_mean, a @ mean + c)
    wanted = a @ root @ root.T @ a.T + np.einsum("nkij,nklj->il", b, b)
    np.testing.assert_allclose(got_covariance, wanted)
    for other in (
        lambda x, z: jnp.sin(x),
        lambda x, z: jnp.clip(x, -150, 150),  # affine up to two standard deviations, of start and of noise
        lambda x, z: x + jnp.clip(z[0], -2, 2),
        lambda x, z: jnp.minimum(x, 150),  # on one side
        lambda x, z: jnp.maximum(x, -150),
    ):
        with pytest.raises(ValueError, match="not an affine map"):
            exact.output_law(other, np.zeros(1), 6400 * np.eye(1), (1,))


def test_output_law_multiplies_in_full_precision(monkeypatch):
    """TF32 would round the factors to ten bits, in the covariance and in the check that the sampler is affine."""
    monkeypatch.setattr(jnp, "allclose", lambda *_, **__: True)  # so that it can be traced
    law = lambda mean, covariance: exact.output_law(lambda x, z: 2 * x + z[0], mean, covariance, (1,))
    traced = str(jax.make_jaxpr(law)(jnp.zeros(3), jnp.eye(3)))
    assert traced.count("dot_general[") == traced.count("precision=(Precision.HIGHEST") > 0


def test_components_must_fit(x64):
    with pytest.raises(ValueError, match=r"need weights \(3,\) and covariances \(3, 2, 2\)"):
        exact.mixture(np.ones(2), MEANS, COVARIANCES)
    for wrong in (jnp.zeros((0, 2)), jnp.zeros((2, 3, 3, 1))):
        with pytest.raises(ValueError, match=r"points \[N, D\], one or more, got shape"):
            exact.point_masses(wrong)
    with pytest.raises(ValueError, match="has a mean"):
        exact.gaussian(0.0, 1.0)
    with pytest.raises(ValueError, match="weights are not negative"):
        exact.mixture([0.5, -0.1, 0.6], MEANS, COVARIANCES)
    with pytest.raises(ValueError, match="positive semi-definite"):
        exact.gaussian(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]))
