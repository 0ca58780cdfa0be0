"""KL divergences equal quadrature and enumeration, are never negative, and agree with Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from numpy.polynomial.legendre import leggauss

from dlvm_jax.exact.discrete import all_binary
from dlvm_jax.functional import densities, divergences
from tests.functional.common import central_difference, checks

pytestmark = pytest.mark.usefixtures("x64")


def random(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def tril(seed, dim):
    return np.tril(random(seed, dim, dim), -1) * 0.5 + np.diag(np.exp(0.3 * random(seed + 1, dim)))


@checks(divergences.kl_normal)
@pytest.mark.parametrize("q", [(0.3, -0.5), (2.0, 1.0)])
@pytest.mark.parametrize("p", [(0.0, 0.0), (-1.0, 0.7)])
def test_normal_equals_quadrature(q, p):
    nodes, weights = leggauss(400)
    half = 14 * np.exp(q[1])
    x = q[0] + half * nodes
    log_q, log_p = (densities.normal_log_prob(x[:, None], *map(jnp.asarray, law)) for law in (q, p))
    integral = float(np.sum(half * weights * np.exp(log_q) * (log_q - log_p)))
    assert float(divergences.kl_normal(jnp.array([q[0]]), q[1], p[0], p[1])) == pytest.approx(
        integral, abs=1e-9
    )


@checks(divergences.kl_multivariate_normal)
def test_multivariate_normal_equals_quadrature():
    mean_q, mean_p, tril_q, tril_p = random(0, 2), random(1, 2), tril(2, 2), tril(4, 2)
    nodes, weights = leggauss(120)
    eps = 10 * np.stack(np.meshgrid(nodes, nodes), -1)
    volume = 100 * np.outer(weights, weights)
    x = mean_q + eps @ tril_q.T
    log_q, log_p = (
        densities.multivariate_normal_log_prob(jnp.asarray(x), jnp.asarray(m), jnp.asarray(t))
        for m, t in ((mean_q, tril_q), (mean_p, tril_p))
    )
    integral = float(np.sum(volume * np.exp(-0.5 * (eps**2).sum(-1)) / (2 * np.pi) * (log_q - log_p)))
    kl = divergences.kl_multivariate_normal(*map(jnp.asarray, (mean_q, tril_q, mean_p, tril_p)))
    assert float(kl) == pytest.approx(integral, abs=1e-9)


@checks(divergences.kl_standard_normal)
def test_diagonal_full_and_standard_agree():
    mean_q, log_std_q, mean_p, log_std_p = random(0, 4, 3, 5)
    diagonal = divergences.kl_normal(mean_q, log_std_q, mean_p, log_std_p)
    as_tril = jax.vmap(jnp.diag)
    full = divergences.kl_multivariate_normal(
        mean_q, as_tril(jnp.exp(log_std_q)), mean_p, as_tril(jnp.exp(log_std_p))
    )
    np.testing.assert_allclose(full, diagonal, rtol=1e-12)
    standard = divergences.kl_standard_normal(mean_q, log_std_q)
    np.testing.assert_allclose(standard, divergences.kl_normal(mean_q, log_std_q, 0.0, 0.0), rtol=1e-12)
    batched = divergences.kl_multivariate_normal(mean_q, jnp.eye(5), jnp.zeros(5), jnp.eye(5))
    np.testing.assert_allclose(batched, 0.5 * (mean_q**2).sum(-1), rtol=1e-12)


@checks(divergences.kl_bernoulli, divergences.kl_categorical)
def test_bernoulli_and_categorical_equal_enumeration():
    logits_q, logits_p = 2 * random(0, 2, 6)
    bits = all_binary(6)
    log_q, log_p = (densities.bernoulli_log_prob(bits, logits) for logits in (logits_q, logits_p))
    expected = float(jnp.sum(jnp.exp(log_q) * (log_q - log_p)))
    assert float(divergences.kl_bernoulli(logits_q, logits_p)) == pytest.approx(expected, abs=1e-12)
    logits_q, logits_p = 2 * random(1, 2, 1, 5)
    log_q, log_p = (
        densities.categorical_log_prob(np.arange(5)[:, None], logits) for logits in (logits_q, logits_p)
    )
    expected = float(jnp.sum(jnp.exp(log_q) * (log_q - log_p)))
    assert float(divergences.kl_categorical(logits_q, logits_p)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [10.0, 1.0, 40.0])
def test_bernoulli_in_float32_keeps_its_digits_at_large_logits(size):
    """Values to a few roundings over the squared difference d of the logits, gradients over d, down to values of 1e-20.

    With the unlikelier outcome's q, the value is log(1 + q (e^d - 1)) - q d, which float64 knows to ten digits.
    """
    rng = np.random.RandomState(0)
    for gap in (0.1, 0.3, 1.0, 10.0):
        a = (size * np.sign(rng.randn(30)) * rng.uniform(0.5, 1, 30)).astype(np.float32)
        b = (a + gap * np.sign(rng.randn(30))).astype(np.float32)
        with jax.enable_x64(False):
            value = divergences.kl_bernoulli(jnp.asarray(a), jnp.asarray(b), 0)
            slopes = jax.grad(lambda *ab: divergences.kl_bernoulli(*ab), (0, 1))(
                jnp.asarray(a), jnp.asarray(b)
            )
        sign, a, b = -np.sign(a), a.astype(float), b.astype(float)
        a, b = sign * a, sign * b
        q, d = scipy.special.expit(a), b - a
        right = np.log1p(q * np.expm1(d)) - q * d
        np.testing.assert_allclose(value, right, rtol=4e-6 / gap**2 + 4e-6)
        variance = q * scipy.special.expit(-a)
        right = -sign * variance * d, sign * variance * np.expm1(d) / (1 + q * np.expm1(d))
        for ours, other in zip(slopes, right, strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-4 / gap + 4e-4)


def test_bernoulli_far_apart_is_finite_with_finite_gradients():
    with jax.enable_x64(False):
        for a, b in ((1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (200.0, 100.0)):
            value, slopes = jax.value_and_grad(divergences.kl_bernoulli, (0, 1))(
                jnp.float32([a]), jnp.float32([b])
            )
            assert float(value) == (abs(b) if a * b < 0 else 0) and np.isfinite(slopes).all()


def full(a, b):
    return divergences.kl_multivariate_normal(a[0], as_factor(a[1]), b[0], as_factor(b[1]))


def as_factor(values):
    """A lower-triangular factor with positive diagonal from six numbers."""
    return jnp.zeros((3, 3)).at[np.tril_indices(3)].set(0.5 * values[..., :6]) + jnp.diag(
        jnp.exp(0.3 * values[:3]) - 0.5 * values[np.array([0, 2, 5])]
    )


CLOSED = {
    "normal": lambda a, b: divergences.kl_normal(a[0], a[1], b[0], b[1]),
    "full": lambda a, b: full((a[0, :3], a[1]), (b[0, :3], b[1])),
    "standard": lambda a, b: divergences.kl_standard_normal(a[0], a[1]),
    "bernoulli": lambda a, b: divergences.kl_bernoulli(a[0], b[0]),
    "categorical": lambda a, b: divergences.kl_categorical(a, b),
}


@pytest.mark.parametrize("name", CLOSED)
def test_never_negative_and_zero_only_at_equality(name):
    """Zero to a few roundings of sums of terms of size one; 1e-3 apart for twenty random pairs."""
    kl = CLOSED[name]
    for seed in range(20):
        a, b = random(seed, 2, 2, 6)
        assert float(kl(a, b)) > 1e-3
        near = a + 1e-3 * random(seed + 50, 2, 6)  # second order in the distance
        assert 0 < float(kl(a, near)) < 1e-4 or name == "standard"
        equal = jnp.zeros_like(a) if name == "standard" else a
        assert abs(float(kl(equal, equal))) < 1e-14


def test_float32_divergences_near_equality_are_not_negative():
    """expm1 keeps the Gaussian one exact; the others may round below zero by a unit in the last place of one, no more."""
    with jax.enable_x64(False):
        for seed in range(20):
            a = random(seed, 2, 6).astype(np.float32)
            b = a + np.float32(1e-3) * random(seed + 50, 2, 6).astype(np.float32)
            assert float(divergences.kl_normal(a[0], a[1], b[0], b[1])) > 0
            for name in ("full", "bernoulli", "categorical"):
                assert float(CLOSED[name](a, b)) > -2e-6


@pytest.mark.parametrize("name", CLOSED)
def test_gradients_equal_central_differences(name):
    """Step 1e-5: 1e-16 of values of size 10 over the step, third derivatives of size 100 times 1e-10 / 6."""
    a, b = random(3, 2, 2, 6)
    for function, at in ((lambda p: CLOSED[name](p, b), a), (lambda p: CLOSED[name](a, p), b)):
        function = jax.jit(function)
        numeric = central_difference(function, at)
        np.testing.assert_allclose(jax.grad(function)(jnp.asarray(at)), numeric, atol=1e-8, rtol=1e-7)


def test_categorical_with_an_impossible_level_is_finite_with_finite_gradient():
    logits_q = jnp.array([[-jnp.inf, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda p: divergences.kl_categorical(logits_q, p))(jnp.zeros((1, 3)))
    assert float(value) == pytest.approx(np.log(1.5)) and np.isfinite(gradient).all()


@checks(divergences.kl_monte_carlo)
@pytest.mark.parametrize("name", ["normal", "full", "bernoulli", "categorical"])
def test_monte_carlo_agrees_within_its_standard_error(name):
    """Standardised errors of 200 repetitions are standard normal: mean within 4 / sqrt(200), false alarm 6e-5.

    Their variance has standard deviation .1 and more for skewed terms: within .5.
    """
    mean, factor, logits = random(0, 2, 3), [tril(3, 3), tril(5, 3)], random(8, 2, 4)
    q, p = ((mean[i], 0.5 * logits[i, :3]) for i in (0, 1))
    sample, log_prob, exact, q, p = {
        "normal": (densities.normal_sample, densities.normal_log_prob, divergences.kl_normal, q, p),
        "full": (
            densities.multivariate_normal_sample,
            densities.multivariate_normal_log_prob,
            divergences.kl_multivariate_normal,
            *zip(mean, factor, strict=True),
        ),
        "bernoulli": (
            densities.bernoulli_sample,
            densities.bernoulli_log_prob,
            divergences.kl_bernoulli,
            *logits[:, None],
        ),
        "categorical": (
            densities.categorical_sample,
            densities.categorical_log_prob,
            divergences.kl_categorical,
            *logits[:, None, None],
        ),
    }[name]

    def one(key):
        z = sample(key, *q, shape=(500,))
        return divergences.kl_monte_carlo(log_prob(z, *q), log_prob(z, *p))

    estimate = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200))
    score = (estimate.value - exact(*q, *p)) / estimate.standard_error
    assert abs(score.mean()) < 4 / np.sqrt(200) and abs(score.var() - 1) < 0.5


def test_monte_carlo_standard_error_is_that_of_a_mean():
    log_q, log_p = random(1, 2, 40, 3)
    estimate = divergences.kl_monte_carlo(jnp.asarray(log_q), jnp.asarray(log_p))
    np.testing.assert_allclose(estimate.value, (log_q - log_p).mean(0), rtol=1e-12)
    expected = scipy.stats.sem(log_q - log_p, axis=0)
    np.testing.assert_allclose(estimate.standard_error, expected, rtol=1e-12)


def rbf_mmd(mean_x, covariance_x, mean_y, covariance_y, bandwidth):
    """Squared MMD of two Gaussians under the Gaussian kernel: E k(a, b) is a Gaussian integral of the difference a - b."""

    def mean_kernel(mean, covariance):
        wide = np.eye(len(mean)) + covariance / bandwidth**2
        square = mean @ np.linalg.solve(wide, mean) / bandwidth**2
        return np.exp(-0.5 * square) / np.sqrt(np.linalg.det(wide))

    zero = np.zeros_like(mean_x)
    within = mean_kernel(zero, 2 * covariance_x) + mean_kernel(zero, 2 * covariance_y)
    return within - 2 * mean_kernel(mean_x - mean_y, covariance_x + covariance_y)


@checks(divergences.mmd)
@pytest.mark.parametrize("sizes", [(2, 3), (40, 25)])
@pytest.mark.parametrize("equal", [False, True])
def test_mmd_is_unbiased_for_the_closed_form_of_gaussians(sizes, equal):
    """Any sample size; within five standard errors of 4,000 repetitions, false alarm 6e-7.  Zero for equal laws."""
    laws = [(random(0, 2), tril(2, 2)), (random(1, 2), tril(4, 2))]
    if equal:
        laws[1] = laws[0]
    truth = rbf_mmd(*(part for mean, factor in laws for part in (mean, factor @ factor.T)), 1.3)
    assert truth == pytest.approx(0, abs=1e-15) if equal else truth > 0.05

    def one(key):
        x, y = (
            densities.multivariate_normal_sample(k, jnp.asarray(mean), jnp.asarray(factor), (n,))
            for k, (mean, factor), n in zip(jax.random.split(key), laws, sizes, strict=True)
        )
        return divergences.mmd(x, y, lambda a, b: divergences.rbf_kernel(a, b, 1.3))

    estimates = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000))
    assert abs(estimates.mean() - truth) < 5 * estimates.std() / np.sqrt(4000)
    assert (estimates < 0).any()  # not clamped


def test_mmd_of_levels_in_eight_bits_does_not_wrap():
    x, y = np.random.RandomState(0).randint(0, 256, (2, 6, 3)).astype(np.uint8)
    kernel = lambda x, y: divergences.rbf_kernel(x, y, 200.0)
    wide = divergences.mmd(x.astype(np.float32), y.astype(np.float32), kernel)
    np.testing.assert_allclose(divergences.mmd(x, y, kernel), wide, rtol=1e-4)


@checks(divergences.rbf_kernel, divergences.inverse_multiquadratic_kernel)
def test_mmd_sums_over_the_right_pairs():
    """Diagonals are left out within a sample and kept across, also for the same points on both sides."""
    x, y = random(0, 4, 2), random(1, 3, 2)
    for kernel, formula in (
        (lambda a, b: divergences.rbf_kernel(a, b, 0.7), lambda d: np.exp(-d / (2 * 0.7**2))),
        (lambda a, b: divergences.inverse_multiquadratic_kernel(a, b, 3.0), lambda d: 3 / (3 + d)),
    ):
        for other in (y, x):
            k = lambda a, b, formula=formula: formula(((a - b) ** 2).sum())
            within = [
                np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
                for s in (x, other)
            ]
            across = np.mean([k(a, b) for a in x for b in other])
            value = divergences.mmd(jnp.asarray(x), jnp.asarray(other), kernel)
            assert float(value) == pytest.approx(sum(within) - 2 * across, abs=1e-12)
    with pytest.raises(ValueError, match="at least two examples of each, got 1 and 3"):
        divergences.mmd(jnp.zeros((1, 2)), jnp.zeros((3, 2)), kernel)
