"""KL divergences equal quadrature and enumeration, are never negative, and agree with Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss

from dlvm_jax.exact.discrete import all_binary
from dlvm_jax.functional import densities, divergences

pytestmark = pytest.mark.usefixtures("x64")


def random(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def tril(seed, dim):
    return np.tril(random(seed, dim, dim), -1) * 0.5 + np.diag(np.exp(0.3 * random(seed + 1, dim)))


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


CLOSED = {
    "normal": lambda a, b: divergences.kl_normal(a[0], a[1], b[0], b[1]),
    "full": lambda a, b: divergences.kl_multivariate_normal(a[0], tril(7, 6), b[0], tril(9, 6)),
    "bernoulli": lambda a, b: divergences.kl_bernoulli(a[0], b[0]),
    "categorical": lambda a, b: divergences.kl_categorical(a, b),
}


@pytest.mark.parametrize("name", CLOSED)
def test_never_negative_and_zero_only_at_equality(name):
    kl = CLOSED[name]
    for seed in range(20):
        a, b = random(seed, 2, 2, 6)
        assert float(kl(a, b)) > 1e-3
    if name != "full":
        assert abs(float(kl(a, a))) < 1e-14


def test_categorical_with_an_impossible_level_is_finite_with_finite_gradient():
    logits_q = jnp.array([[-jnp.inf, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda p: divergences.kl_categorical(logits_q, p))(jnp.zeros((1, 3)))
    assert float(value) == pytest.approx(np.log(1.5)) and np.isfinite(gradient).all()


def test_monte_carlo_agrees_within_its_standard_error():
    """Standardised errors of 200 repetitions are standard normal: mean within 5 / sqrt(200), variance within 0.5."""
    q, p = (jnp.array([0.5, -1.0]), jnp.array([0.2, -0.7])), (jnp.zeros(2), jnp.zeros(2))

    def one(key):
        z = densities.normal_sample(key, *q, (500,))
        return divergences.kl_monte_carlo(densities.normal_log_prob(z, *q), densities.normal_log_prob(z, *p))

    estimate = jax.vmap(one)(jax.random.split(jax.random.key(0), 200))
    score = (estimate.value - divergences.kl_normal(*q, *p)) / estimate.standard_error
    assert abs(score.mean()) < 5 / np.sqrt(200) and abs(score.var() - 1) < 0.5


def test_gradients_equal_central_differences():
    a, b = random(3, 2, 2, 6)
    for name, kl in CLOSED.items():
        if name == "full":
            continue
        ours = jax.grad(kl)(jnp.asarray(a), b)
        for index in np.ndindex(a.shape):
            step = np.zeros_like(a)
            step[index] = 1e-5
            numeric = float(kl(a + step, b) - kl(a - step, b)) / 2e-5
            assert float(ours[index]) == pytest.approx(numeric, abs=1e-7)
