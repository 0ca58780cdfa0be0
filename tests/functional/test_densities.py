"""Densities sum or integrate to one, agree with SciPy, have finite right gradients, and match their samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.polynomial.legendre import leggauss

from dlvm_jax.exact.discrete import all_binary
from dlvm_jax.functional import densities as d

# The issue of rounding: a sum of L terms, each right to a few units in the last place, is right to about 1e-6 in float32.
TOLERANCE = {jnp.float32: 1e-5, jnp.float64: 1e-10}
DTYPES = list(TOLERANCE)
DISCRETISED = {
    "logistic": (d.discretised_logistic_log_prob, d.discretised_logistic_sample, scipy.stats.logistic),
    "normal": (d.discretised_normal_log_prob, d.discretised_normal_sample, scipy.stats.norm),
}


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param is jnp.float64):
        yield request.param


def quadrature(low, high, nodes=400):
    x, w = leggauss(nodes)
    return (high - low) / 2 * x + (high + low) / 2, (high - low) / 2 * w


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (3.0, -2.0), (-1.0, 2.0)])
def test_normal_integrates_to_one(dtype, mean, log_std):
    x, w = quadrature(mean - 12 * np.exp(log_std), mean + 12 * np.exp(log_std))
    log_prob = d.normal_log_prob(jnp.asarray(x, dtype)[:, None], dtype(mean), dtype(log_std))
    assert abs(np.sum(w * np.exp(np.asarray(log_prob, np.float64))) - 1) < TOLERANCE[dtype]


def test_multivariate_normal_integrates_to_one_and_equals_scipy(dtype):
    tril = np.array([[1.3, 0.0], [-0.7, 0.5]])
    mean = np.array([0.4, -1.0])
    x, w = quadrature(-13, 13, 160)
    points = np.stack(np.meshgrid(x, x), -1)
    log_prob = np.asarray(
        d.multivariate_normal_log_prob(
            jnp.asarray(points, dtype), jnp.asarray(mean, dtype), jnp.asarray(tril, dtype)
        ),
        np.float64,
    )
    assert abs(np.sum(np.outer(w, w) * np.exp(log_prob)) - 1) < TOLERANCE[dtype]
    expected = scipy.stats.multivariate_normal(mean, tril @ tril.T).logpdf(points)
    # relative, since log-densities reach -1000 at the corners
    np.testing.assert_allclose(log_prob, expected, rtol=10 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


def test_multivariate_normal_with_diagonal_factor_is_the_diagonal_normal(dtype):
    x, mean, log_std = (jnp.asarray(np.random.RandomState(i).randn(5, 3), dtype) for i in range(3))
    tril = jax.vmap(jnp.diag)(jnp.exp(log_std))
    full = d.multivariate_normal_log_prob(x, mean, tril)
    np.testing.assert_allclose(full, d.normal_log_prob(x, mean, log_std), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
def test_bernoulli_sums_to_one_over_all_bit_vectors(dtype, scale):
    logits = jnp.asarray(scale * np.random.RandomState(0).randn(10), dtype)
    total = jnp.exp(d.bernoulli_log_prob(all_binary(10).astype(dtype), logits)).sum()
    assert abs(float(total) - 1) < TOLERANCE[dtype]


def test_bernoulli_is_finite_with_finite_gradient_at_extreme_logits():
    logits = jnp.array([-1e4, -200.0, 0.0, 200.0, 1e4])
    for x in (0.0, 1.0):
        value, gradient = jax.vmap(jax.value_and_grad(lambda l, x=x: d.bernoulli_log_prob(x, l, 0)))(logits)
        assert np.isfinite(value).all() and np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient, x - jax.nn.sigmoid(logits), atol=1e-7)


def test_categorical_sums_to_one_over_all_sequences(dtype):
    logits = jnp.asarray(5 * np.random.RandomState(0).randn(3, 4), dtype)
    x = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)
    assert abs(float(jnp.exp(d.categorical_log_prob(x, logits)).sum()) - 1) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", DISCRETISED)
@pytest.mark.parametrize("levels", [2, 3, 17, 256, 1024, 65536])
def test_discretised_density_sums_to_one(dtype, name, levels):
    log_prob = DISCRETISED[name][0]
    k = jnp.arange(levels, dtype=dtype)[:, None, None]
    mean = jnp.asarray([-0.3, 0.0, 1 / 512, 0.37, 0.5, 1.0, 1.7], dtype)[:, None]
    log_scale = jnp.asarray([-12.0, -9.0, -6.0, -4.5, -2.0, 0.0, 1.0, 4.0], dtype)
    logs = log_prob(k, mean, log_scale, levels, event_ndim=0)
    sums = np.exp(np.asarray(logs, np.float64)).sum(0)
    np.testing.assert_allclose(sums, 1, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", DISCRETISED)
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
def test_discretised_density_equals_cdf_differences(name, log_scale, x64):
    """Each level against SciPy's tail-safe differences (cdf below the mean, sf above)."""
    log_prob, _, law = DISCRETISED[name]
    k = np.arange(256)
    a, b = ((k + i) / 256 - 0.37 for i in (0, 1))
    a[0], b[-1] = -np.inf, np.inf
    law = law(scale=np.exp(log_scale))
    probability = np.where(a + b < 0, law.cdf(b) - law.cdf(a), law.sf(a) - law.sf(b))
    ours = np.exp(log_prob(k[:, None], 0.37, log_scale))
    # the oracle itself cancels: absolute 1e-15 a difference of numbers of order one
    np.testing.assert_allclose(ours, probability, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", DISCRETISED)
def test_discretised_gradients_are_finite_and_equal_central_differences(name, x64):
    log_prob = DISCRETISED[name][0]
    k = np.array([0.0, 1.0, 100.0, 254.0, 255.0])[:, None, None]
    mean = np.array([-0.5, 0.001, 0.4, 1.2])[:, None]
    log_scale = np.array([-9.0, -5.0, -1.0, 3.0])
    k, mean, log_scale = np.broadcast_arrays(k, mean, log_scale)

    def total(mean, log_scale):
        return log_prob(k, mean, log_scale, 256, event_ndim=0)

    for argument in (0, 1):
        ours = jax.grad(lambda m, s: total(m, s).sum(), argument)(jnp.asarray(mean), jnp.asarray(log_scale))
        step = 1e-6
        shift = [(step, 0.0), (0.0, step)][argument]
        numeric = (
            total(mean + shift[0], log_scale + shift[1]) - total(mean - shift[0], log_scale - shift[1])
        ) / (2 * step)
        assert np.isfinite(ours).all()
        # central differences of a value v lose |v| 1e-16 / 1e-6; values reach 1e7 here
        np.testing.assert_allclose(
            ours, numeric, rtol=2e-5, atol=1e-6 + 1e-9 * np.abs(total(mean, log_scale)).max()
        )


@pytest.mark.parametrize("name", DISCRETISED)
def test_discretised_gradients_are_finite_in_float32_everywhere(name):
    log_prob = DISCRETISED[name][0]
    grids = np.meshgrid([0.0, 1, 127, 254, 255], [-3.0, 0, 0.5, 1, 3], np.linspace(-12, 6, 19), indexing="ij")
    k, mean, log_scale = (jnp.asarray(g, jnp.float32) for g in grids)
    value, gradients = jax.value_and_grad(lambda m, s: log_prob(k, m, s, 256, event_ndim=0).sum(), (0, 1))(
        mean, log_scale
    )
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def chi_square_p(counts, probabilities):
    expected = probabilities * counts.sum()
    common = expected > 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    return scipy.stats.chi2.sf(statistic, common.sum() - 1)


@pytest.mark.parametrize("name", DISCRETISED)
def test_discretised_sampler_follows_its_density(name):
    """Chi-square; false alarm 1e-3 for a fresh seed (over 30 seeds the p-values were uniform), the seed is fixed."""
    log_prob, sample, _ = DISCRETISED[name]
    draws = np.asarray(sample(jax.random.key(0), jnp.full(1, 0.1), -2.0, 17, (100_000,)))[:, 0]
    counts = np.bincount(draws.astype(int), minlength=17)
    probabilities = np.exp(log_prob(np.arange(17.0)[:, None], 0.1, -2.0, 17))
    assert chi_square_p(counts, probabilities) > 1e-3


def test_categorical_and_bernoulli_samplers_follow_their_densities():
    """Chi-square; false alarm 1e-3 each for a fresh seed."""
    logits = jnp.array([[0.3, -1.0, 2.0, 0.0]])
    draws = np.asarray(d.categorical_sample(jax.random.key(2), logits, (50_000,)))[:, 0].astype(int)
    assert chi_square_p(np.bincount(draws, minlength=4), np.asarray(jax.nn.softmax(logits[0]))) > 1e-3
    logits = jnp.array([-2.0, 0.5])
    draws = np.asarray(d.bernoulli_sample(jax.random.key(3), logits, (50_000,)))
    codes = (draws @ [2, 1]).astype(int)
    probabilities = np.exp(d.bernoulli_log_prob(all_binary(2), logits))
    assert chi_square_p(np.bincount(codes, minlength=4), probabilities) > 1e-3


def test_normal_samplers_follow_their_densities():
    """Kolmogorov-Smirnov on standardised draws and on a projection; false alarm 1e-3 each for a fresh seed."""
    draws = np.asarray(d.normal_sample(jax.random.key(4), jnp.array([1.0]), -0.5, (20_000,)))[:, 0]
    assert scipy.stats.kstest((draws - 1) * np.exp(0.5), "norm").pvalue > 1e-3
    tril = jnp.array([[1.0, 0.0], [0.8, 0.3]])
    draws = np.asarray(d.multivariate_normal_sample(jax.random.key(5), jnp.ones(2), tril, (20_000,)))
    direction = np.array([0.6, -0.8])
    std = np.sqrt(direction @ np.asarray(tril @ tril.T) @ direction)
    assert scipy.stats.kstest((draws - 1) @ direction / std, "norm").pvalue > 1e-3


def test_reparameterised_gradient_is_right():
    """d/d(mean, log_std) E[z^2] = (2 mean, 2 std^2); five standard errors, false alarm 1e-6."""
    mean, log_std = 0.7, -0.3

    def squares(params):
        return jnp.square(d.normal_sample(jax.random.key(6), *params, (100_000,)))

    gradients = np.asarray(jax.jacfwd(squares)((mean, log_std)))
    error = gradients.std(1) / np.sqrt(gradients.shape[1])
    assert (np.abs(gradients.mean(1) - [2 * mean, 2 * np.exp(2 * log_std)]) < 5 * error).all()


def test_shapes_batch_first_event_last():
    key, x = jax.random.key(0), jnp.zeros((7, 2, 4, 3))
    assert d.normal_log_prob(x, 0.0, 0.0, 2).shape == (7, 2)
    assert d.normal_log_prob(x, jnp.zeros((4, 3)), jnp.zeros(3), 3).shape == (7,)
    assert d.bernoulli_log_prob(x[0], x).shape == (7, 2, 4)
    assert d.categorical_log_prob(jnp.zeros((2, 5)), jnp.zeros((7, 2, 5, 3))).shape == (7, 2)
    assert d.normal_sample(key, jnp.zeros((2, 1)), jnp.zeros(3), (7,)).shape == (7, 2, 3)
    assert d.categorical_sample(key, jnp.zeros((2, 5, 3)), (7,)).shape == (7, 2, 5)


def test_bits_per_dim_of_uniform_data():
    assert float(d.bits_per_dim(-12 * np.log(256), (4, 3))) == pytest.approx(8)
    # a density on [0, 1] that is uniform has log-density 0 and costs log2(256) bits a pixel
    assert float(d.bits_per_dim(0.0, (4, 3), 1 / 256)) == pytest.approx(8)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 2 levels, got 1"):
        d.discretised_logistic_log_prob(jnp.zeros(1), 0.0, 0.0, 1)
    with pytest.raises(ValueError, match="at least 2 event axes"):
        d.normal_log_prob(jnp.zeros(3), 0.0, 0.0, event_ndim=2)
    with pytest.raises(ValueError, match="positive bin width"):
        d.bits_per_dim(0.0, (3,), 0.0)
