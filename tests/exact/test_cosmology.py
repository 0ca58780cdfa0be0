"""Log-normal maps: growth by SciPy's solver, sigma_8 by quadrature, likelihood by a dense Gaussian, posterior by ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from dlvm_jax.exact import cosmology
from dlvm_jax.functional import calibration
from tests.functional.common import checks, quadrature

KEY = jax.random.key(0)
SIZE, PIXEL, DEPTH = 8, 8.0, 64.0
SMALL = cosmology.cosmology(SIZE, cells=16)
THETA = np.array([0.25, 0.9, -0.8], np.float32)


def modes(theta):
    """Variances of the Fourier modes, and the correlation of two pixels, [8, 8] each, one sum at a time."""
    waves = [2 * np.pi * (i if i <= SIZE // 2 else i - SIZE) / (SIZE * PIXEL) for i in range(SIZE)]
    k = np.array([[np.sqrt(a**2 + b**2) for b in waves] for a in waves])
    k[0, 0] = waves[1]
    size = cosmology.growth(theta[0], theta[2]) ** 2 / (DEPTH * PIXEL**2)
    variances = np.asarray(size * cosmology.matter_power(k, theta[0], theta[1]), np.float64)
    turns = np.exp(2j * np.pi / SIZE * np.outer(np.arange(SIZE), np.arange(SIZE)))
    return variances, (turns @ variances @ turns).real / SIZE**2


@checks(cosmology.growth)
def test_growth_solves_its_equation():
    """D'' + (2 + (ln H)') D' = 3/2 Omega(a) D in ln a, by SciPy from deep in the time of matter; matter alone grows as a."""
    for omega_m, w in ((0.3, -1.0), (0.1, -0.5), (0.1, -1.5), (0.5, -0.7)):

        def slope(t, y, omega_m=omega_m, w=w):
            dark = (1 - omega_m) * np.exp(-3 * (1 + w) * t)
            share = omega_m * np.exp(-3 * t) / (omega_m * np.exp(-3 * t) + dark)
            log_h = -1.5 * (1 + w * (1 - share))
            return [y[1], 1.5 * share * y[0] - (2 + log_h) * y[1]]

        start, times = np.exp(-12.0), [-np.log(2.0), 0.0]
        found = scipy.integrate.solve_ivp(slope, (-12, 0), [start, start], t_eval=times, rtol=1e-9, atol=0)
        np.testing.assert_allclose(cosmology.growth(omega_m, w), found.y[0, 0] / found.y[0, 1], rtol=2e-5)
    np.testing.assert_allclose(cosmology.growth(1.0, -1.0), 0.5, rtol=1e-6)


@checks(cosmology.matter_power)
def test_the_spectrum_has_its_sigma_8_and_its_shape():
    """The variance over balls by quadrature; long waves as k^n; the transfer function at q = 1, worked out by hand."""
    log_k, weights = quadrature(np.log(1e-5), np.log(20.0), 500)
    k = np.exp(log_k)
    window = 3 * (np.sin(8 * k) - 8 * k * np.cos(8 * k)) / (8 * k) ** 3
    for omega_m, sigma_8 in ((0.1, 0.6), (0.5, 1.0)):
        power = np.asarray(cosmology.matter_power(k, omega_m, sigma_8), np.float64)
        variance = weights @ (k**3 * power * window**2) / (2 * np.pi**2)
        assert np.sqrt(variance) == pytest.approx(sigma_8, rel=2e-4)
        first, second, third = cosmology.matter_power(np.array([1e-6, 1e-5, 0.7 * omega_m]), omega_m, sigma_8)
        assert second / first == pytest.approx(10**0.96, rel=1e-3)
        ratio = third / first * (1e-6 / (0.7 * omega_m)) ** 0.96
        assert np.sqrt(ratio) == pytest.approx(0.073224, rel=1e-3)


@checks(cosmology.cosmology)
def test_the_likelihood_is_that_of_a_dense_gaussian():
    """Of the logarithm, whose covariance is the correlation function; equal amplitudes at another w_0 are as likely."""
    variances, correlation = modes(THETA)
    away = (np.arange(SIZE)[:, None] - np.arange(SIZE)) % SIZE
    covariance = correlation[away[:, None, :, None], away[None, :, None, :]].reshape(SIZE**2, SIZE**2)
    law = scipy.stats.multivariate_normal(np.full(SIZE**2, -variances.mean() / 2), covariance)
    log_x = np.random.RandomState(0).randn(3, SIZE**2)
    x = np.exp(log_x).astype(np.float32)
    expected = law.logpdf(np.log(x)) - np.log(x).sum(-1)
    log_likelihood = jax.jit(SMALL.log_likelihood)
    np.testing.assert_allclose(log_likelihood(THETA, x), expected, rtol=2e-5)
    other = THETA * np.array([1, cosmology.growth(0.25, -0.8) / cosmology.growth(0.25, -1.4), 1.75])
    np.testing.assert_allclose(log_likelihood(other.astype(np.float32), x), expected, rtol=2e-5)
    assert (log_likelihood(THETA, -x) == -np.inf).all()


def test_maps_have_the_mean_and_the_spectrum_of_their_law():
    """4,000 maps: modes of the logarithm over their deviation are standard normal, within 5 errors each (false alarm 1e-4).

    The map's own mean is 1 and its covariance exp(xi) - 1, within 5 errors of the 64 distances (4e-5).
    """
    variances, correlation = modes(THETA)
    x = np.asarray(jax.jit(SMALL.simulate)(KEY, jnp.broadcast_to(THETA, (4000, 3))), np.float64)
    x = x.reshape(-1, SIZE, SIZE)
    field = np.log(x) + variances.mean() / 2
    power = abs(np.fft.fft2(field, norm="ortho")) ** 2 / variances
    assert scipy.stats.kstest(power.sum((1, 2)), scipy.stats.chi2(SIZE**2).cdf).pvalue > 1e-5
    assert (abs(power.mean(0) - 1) < 5 * np.sqrt(2 / 4000)).all()
    assert abs(field[:, 0, 0].var() / variances.mean() - 1) < 5 * np.sqrt(2 / 4000)
    assert abs(x.mean() - 1) < 5 * x.mean((1, 2)).std() / np.sqrt(4000)
    pairs = np.fft.ifft2(abs(np.fft.fft2(x - 1)) ** 2).real / SIZE**2
    error = pairs.std(0) / np.sqrt(4000)
    assert (abs(pairs.mean(0) - np.expm1(correlation)) < 5 * error).all()


def test_the_posterior_integrates_to_one_and_its_draws_are_calibrated():
    """On another grid; ranks of 1,000 parameters among 19 draws, and of their amplitude: false alarm 4e-5, shifted ones fail."""
    theta = SMALL.prior_sample(KEY, (1000,))
    x = jax.jit(SMALL.simulate)(jax.random.key(1), theta)
    places = [
        low + (np.arange(15) + 0.5) * (high - low) / 15
        for low, high in zip(SMALL.low, SMALL.high, strict=True)
    ]
    points = np.stack(np.meshgrid(*places, indexing="ij"), -1).astype(np.float32)
    log_prob = jax.jit(SMALL.posterior_log_prob)
    assert np.exp(log_prob(points, x[0])).mean() * np.prod(SMALL.high - SMALL.low) == pytest.approx(
        1, abs=5e-3
    )
    for outside in (points + 0.5, points * [-1, 1, 1], points * [1, 0, 1]):
        assert (log_prob(outside, x[0]) == -np.inf).all()

    @jax.jit
    def draw(x):
        one = lambda inputs: SMALL.posterior_sample(*inputs, 19)
        return jax.lax.map(one, (jax.random.split(KEY, 1000), x), batch_size=50)

    @jax.jit
    def p_values(draws):
        size = lambda t: jnp.concatenate(
            [t, t[..., 1:2] * cosmology.growth(t[..., 0], t[..., 2])[..., None]], -1
        )
        ranks = calibration.rank(size(theta), size(draws))
        return calibration.rank_uniformity(ranks, 19, 20)[1]

    draws = jnp.moveaxis(draw(x), 1, 0)
    assert (draws >= SMALL.low).all() and (draws <= SMALL.high).all()
    assert (p_values(draws) > 1e-5).all()
    assert (p_values(draws + np.array([0.02, 0.02, 0.1]))[:2] < 1e-5).all()
