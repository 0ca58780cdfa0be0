"""Integer data: decoders that sum to one, Bayes' rule over the levels, and a bound that is tight for independent elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from dlvm_jax.functional.diffusion import process as p
from dlvm_jax.functional.diffusion import quantised, schedules, variational
from tests.functional.common import checks

VDM = schedules.linear_log_snr(-5.0, 13.3)


@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.501, 0.0, 1.0, 1.7])
@pytest.mark.parametrize("log_std", [-5.0, -2.0, 0.5])
def test_gaussian_bins_sum_to_one(mean, log_std, x64):
    x = jnp.arange(256.0)[:, None]
    log_prob = quantised.gaussian_decoder(x, jnp.full((256, 1), mean), log_std)
    np.testing.assert_allclose(jnp.exp(log_prob).sum(), 1, rtol=1e-12)
    centre = quantised.unit_levels(jnp.arange(256))
    law, half = norm(mean, np.exp(log_std)), 1 / 255
    inside = law.cdf(centre + half) - law.cdf(centre - half)
    seen = slice(1, 255)
    np.testing.assert_allclose(jnp.exp(log_prob)[seen], inside[seen], rtol=1e-7, atol=1e-14)


@checks(quantised.unit_levels)
def test_levels_fill_the_interval():
    np.testing.assert_allclose(quantised.unit_levels(jnp.arange(5), 5), [-1, -0.5, 0, 0.5, 1])
    ends = quantised.unit_levels(np.array([0, 128, 255], np.uint8))  # twice 128 has nine bits
    np.testing.assert_allclose(ends, [-1, 1 / 255, 1], atol=1e-6)


@checks(quantised.gaussian_decoder)
def test_bits_of_a_matched_residual(x64):
    """DDPM's decoder at a residual of its own standard deviation, .00738: 1.962 bits (1.968 in bins of 2 / 256)."""
    std = 0.00738
    z, w = np.polynomial.hermite_e.hermegauss(80)
    x = jnp.full((80, 1), 100.0)
    mean = quantised.unit_levels(x) + std * jnp.asarray(z)[:, None]
    bits = -w @ quantised.gaussian_decoder(x, mean, jnp.log(std)) / w.sum() / np.log(2)
    assert round(float(bits), 3) == 1.962
    assert round(float(bits) + np.log2(256 / 255), 3) == 1.968


@checks(quantised.categorical_decoder)
def test_categorical_decoder(x64):
    """Softmax over the levels by hand, a sum of one, and .010 bits at the noise of VDM."""
    z, t = jnp.array([[0.3, -1.2], [0.9, 0.0]]), jnp.array([0.1, 0.6])
    a, s = np.asarray(p.alpha(VDM, t)), np.asarray(p.sigma(VDM, t))
    x = np.array([[3, 0], [15, 7]])
    by_hand = []
    for row in range(2):
        total = 0.0
        for element in range(2):
            levels = norm(a[row] * (2 * np.arange(16) / 15 - 1), s[row]).logpdf(z[row, element])
            total += log_softmax(levels)[x[row, element]]
        by_hand.append(total)
    np.testing.assert_allclose(quantised.categorical_decoder(VDM, x, z, t, 16), by_hand, rtol=1e-9)
    every = quantised.categorical_decoder(VDM, jnp.arange(256)[:, None], jnp.full((256, 1), 0.2), 0.3)
    np.testing.assert_allclose(jnp.exp(every).sum(), 1, rtol=1e-12)
    noise = np.linspace(-9, 9, 4001)
    w, level = norm.pdf(noise), jnp.full((4001, 1), 100.0)
    noisy = p.diffuse(VDM, quantised.unit_levels(level), 0.0, jnp.asarray(noise)[:, None])
    bits = -w @ quantised.categorical_decoder(VDM, level, noisy, 0.0) / w.sum() / np.log(2)
    # the two neighbours alone, d standard deviations away: others are e^-60 as likely
    d = float(p.alpha(VDM, 0.0) / p.sigma(VDM, 0.0)) * 2 / 255
    neighbours = 2 * (w / w.sum()) @ np.logaddexp(0, d * (noise - d / 2)) / np.log(2)
    np.testing.assert_allclose(bits, neighbours, rtol=1e-3)
    assert round(float(bits), 3) == 0.01


@checks(quantised.expected_level)
def test_expected_level_by_hand(x64):
    """Bayes' rule for every element of a batch with a time for each example."""
    rng = np.random.RandomState(0)
    logits, z, t = rng.randn(2, 3, 5), rng.randn(2, 3), np.array([0.3, 0.6])
    y = np.linspace(-1, 1, 5)
    for row in range(2):
        a, s = float(p.alpha(VDM, t[row])), float(p.sigma(VDM, t[row]))
        weights = softmax(logits[row] + norm(a * y, s).logpdf(z[row][:, None]), axis=-1)
        found = quantised.expected_level(VDM, logits[row], z[row], t[row])
        np.testing.assert_allclose(found, weights @ y, rtol=1e-9)
    both = jax.jit(lambda *a: quantised.expected_level(VDM, *a))(logits, z, t)
    np.testing.assert_allclose(both[1], found, rtol=1e-9)


def test_little_noise_leaves_the_nearest_level():
    """Deviations of a millionth: the squares are of size 1e12, whose rounding in float32 no exponential holds."""
    process, t = schedules.sub_variance_preserving(), 1e-5
    z = jax.random.normal(jax.random.key(0), (200, 3))
    nearest = np.abs(np.asarray(z)[..., None] - np.linspace(-1, 1, 4)).argmin(-1)
    mean = jax.jit(lambda z: quantised.expected_level(process, jnp.zeros((200, 3, 4)), z, t))(z)
    np.testing.assert_allclose(mean, np.linspace(-1, 1, 4)[nearest], atol=1e-6)
    logits = np.asarray(quantised._log_likelihoods(process, z, t, 4))
    assert (np.take_along_axis(logits, nearest[..., None], -1) == 0).all() and (logits <= 0).all()
    log_prob = jax.jit(lambda x, z: quantised.categorical_decoder(process, x, z, t, 4))(nearest, z)
    np.testing.assert_array_equal(log_prob, np.zeros(200))


def test_bound_of_independent_levels_is_their_log_probability(x64):
    """With the true frequencies, the integral of the bound is -log p(x) of every level, by quadrature over time and noise.

    Two small terms besides, at log-SNR -14 and 16: what is left of the prior, and a decoder that is certain (below 1e-6).
    """
    frequencies = np.array([0.7, 0.05, 0.05, 0.2])
    noise = schedules.linear_log_snr(-14.0, 16.0)
    t, w_t = np.polynomial.legendre.leggauss(160)
    t, w_t = 0.5 * (t + 1), 0.5 * w_t
    eps = np.linspace(-7, 7, 401)
    w_eps = norm.pdf(eps) / norm.pdf(eps).sum()
    x0 = quantised.unit_levels(np.arange(4), 4)
    points = [grid.reshape(-1, 1) for grid in np.meshgrid(x0, t, eps, indexing="ij")]
    clean, times, noises = (jnp.asarray(grid) for grid in points)
    x_t = p.diffuse(noise, clean, times[:, 0], noises)
    x0_hat = quantised.expected_level(noise, jnp.log(jnp.asarray(frequencies)), x_t, times[:, 0])
    square = np.asarray(jnp.square(clean - x0_hat)).reshape(4, len(t), len(eps)) @ w_eps
    integral = (0.5 * 30 * np.exp(np.asarray(noise.log_snr(t))) * square) @ w_t
    prior = variational.prior_kl(noise, jnp.asarray(x0)[:, None])
    np.testing.assert_allclose(integral + prior, -np.log(frequencies), atol=2e-5)


def test_gradient_is_finite_at_both_ends(x64):
    """Of the expected level in logits and point, where one level has all the weight and where none has any more than another."""
    grad = jax.jit(
        jax.grad(lambda logits, z, t: quantised.expected_level(VDM, logits, z, t).sum(), argnums=(0, 1))
    )
    for t in (0.0, 1.0):
        for value in grad(jnp.zeros((1, 256)), jnp.array([0.3]), t):
            assert np.isfinite(value).all()


@checks(quantised.expected_in_bins)
def test_expected_in_bins_by_quadrature(x64):
    """The posterior mean of a histogram density, by a fine sum over x, near and far from the noise's width and the edges."""
    rng = np.random.RandomState(0)
    logits, low, high = rng.randn(5), -1.0, 3.0
    edges = np.linspace(low, high, 6)
    inside = [np.polynomial.legendre.leggauss(400) for _ in range(5)]
    x = np.concatenate(
        [0.5 * (a + b) + 0.5 * (b - a) * n for (n, _), a, b in zip(inside, edges, edges[1:], strict=False)]
    )
    w = np.concatenate([w * np.exp(logit) for (_, w), logit in zip(inside, logits, strict=True)])
    for t in (0.2, 0.5, 0.9):
        a, s = float(p.alpha(VDM, t)), float(p.sigma(VDM, t))
        z = jnp.array([-1.5, -0.97, 0.4, 1.4, 2.2, 5.0])
        log_pdf = norm.logpdf(z[:, None], a * x, s)
        weights = w * np.exp(log_pdf - log_pdf.max(1, keepdims=True))
        found = jax.jit(
            lambda z, t: quantised.expected_in_bins(VDM, jnp.tile(logits, (6, 1)), z, t, low, high)
        )(z, t)
        np.testing.assert_allclose(found, weights @ x / weights.sum(1), rtol=1e-8)


def test_float32_stays_float32_in_double_precision(x64):
    z, logits, t = jnp.zeros(1, jnp.float32), jnp.zeros((1, 4), jnp.float32), jnp.float32(3.0)
    found = quantised.expected_in_bins(schedules.edm(), logits, z, t, -1.0, 1.0)
    assert found.dtype == quantised.gaussian_decoder(z, z, z).dtype == jnp.float32


def test_expected_in_bins_is_safe_far_out():
    """float32: values in the range and finite gradients thousands of standard deviations beyond, and at the edges."""
    z = jnp.array([-50.0, -1.0, 0.0, 1.0, 50.0])

    @jax.jit
    def both(z, logits, t):
        mean = lambda z, logits: quantised.expected_in_bins(VDM, logits, z, t, -1.0, 1.0)
        return mean(z, logits), jax.grad(lambda *inputs: mean(*inputs).sum(), argnums=(0, 1))(z, logits)

    for t in (0.0, 1.0):
        logits = jnp.asarray(np.random.RandomState(0).randn(5, 8), jnp.float32)
        found, gradients = both(z, logits, t)
        assert (jnp.abs(found) <= 1 + 1e-3).all()
        assert all(np.isfinite(g).all() for g in gradients)


def by_sum_over_the_bins(u, s, logits, low, high):
    """Mean under histogram times Gaussian, float64: Gauss-Legendre in each bin, [N] and [N, L] -> [N]; its gradients too."""
    edges, (nodes, weights) = (
        np.linspace(low, high, logits.shape[-1] + 1),
        np.polynomial.legendre.leggauss(40),
    )
    x = 0.5 * (edges[1:] + edges[:-1])[:, None] + 0.5 * (edges[1] - edges[0]) * nodes
    share = softmax(
        logits[..., None] + np.log(weights) + x * (u[:, None, None] - 0.5 * x) / s**2, axis=(1, 2)
    )
    mean = (share * x).sum((1, 2))
    away = x - mean[:, None, None]
    return mean, (share * away).sum(2), (share * away**2).sum((1, 2)) / s**2  # and in logits, in u


def test_expected_in_bins_of_broad_noise():
    """float32 with bins much narrower than the noise, where masses and steps of the density would cancel: mean and gradients."""
    rng, low, high = np.random.RandomState(0), -4.0, 4.0
    logits = np.float32(2 * rng.randn(256, 64))
    for process, times in (
        (schedules.edm(), (2.6, 10.0, 80.0)),
        (schedules.variance_preserving(), (1.0,)),
        (schedules.rectified(), (0.999, schedules.rectified().t_max)),
    ):

        def total(z, logits, t, process=process):
            mean = quantised.expected_in_bins(process, logits, z, t, low, high)
            return mean.sum(), mean

        gradients = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
        for t in map(np.float32, times):
            with jax.enable_x64(True):
                a, s = float(p.alpha(process, np.float64(t))), float(p.sigma(process, np.float64(t)))
            z = np.float32(a * rng.uniform(low, high, 256) + s * rng.randn(256))
            mean, in_logits, in_u = by_sum_over_the_bins(z / a, s / a, np.float64(logits), low, high)
            (got_in_z, got_in_logits), got = gradients(z, logits, t)
            assert got.dtype == jnp.float32
            assert np.sqrt(np.mean((got - mean) ** 2)) < 2e-7, t
            np.testing.assert_allclose(got_in_z, in_u / a, rtol=3e-4)
            np.testing.assert_allclose(got_in_logits, in_logits, atol=1e-6)


def test_expected_in_bins_of_any_width(x64):
    """From bins as wide as the noise to bins of a millionth: one answer, the widths where the formulas meet among them."""
    rng, low, high = np.random.RandomState(0), -2.0, 2.0
    logits, u = rng.randn(6, 40), np.array([-3.0, -1.99, 0.0, 0.3, 2.0, 7.0])
    found = jax.jit(
        lambda s: quantised.expected_in_bins(schedules.edm(), logits, jnp.asarray(u), s, low, high)
    )
    for s in np.geomspace(0.1, 1e5, 40):
        mean = by_sum_over_the_bins(u, s, logits, low, high)[0]
        np.testing.assert_allclose(found(s), mean, atol=1e-11)


def test_levels_are_averaged_in_full_precision():
    """TF32 would round them to ten bits."""
    traced = jax.make_jaxpr(lambda *a: quantised.expected_level(VDM, *a))(
        jnp.zeros((3, 8)), jnp.zeros(3), 0.5
    )
    assert str(traced).count("dot_general[") == str(traced).count("precision=(Precision.HIGHEST") == 1
