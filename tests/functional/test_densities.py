"""Densities sum or integrate to one, agree with independent oracles, have finite right gradients, keep their contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact.discrete import all_binary
from dlvm_jax.functional import densities as d
from tests.functional.common import LAWS, TOLERANCE, central_difference, checks, log_level, quadrature

LEVELS = [2, 3, 17, 256, 1024, 65536]
LOG_SCALES = np.array([-12.0, -9.0, -6.0, -4.5, -2.0, 0.0, 1.0, 4.0])
MEANS = np.array([-0.3, 0.0, 1 / 512, 0.37, 0.5, 1.0, 1.7])
FAR_MEANS = np.array([-1e4, -30.0, -0.3, 0.0, 0.37, 0.99, 1.0, 3.0, 1e3])
on_both_laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def chosen_levels(levels):
    """Both tails and their neighbours, the middle, and those around the means."""
    around = np.round(np.array([0.37, 0.5]) * levels)
    chosen = np.concatenate([[0, 1, levels // 3, levels - 2, levels - 1], around - 1, around])
    return np.unique(np.clip(chosen, 0, levels - 1))


def grid(levels, dtype, means=FAR_MEANS):
    """Levels, means and log-scales, rounded to the precision under test, as float64."""
    axes = np.meshgrid(chosen_levels(levels), means, LOG_SCALES, indexing="ij")
    return [np.asarray(axis, dtype).astype(np.float64) for axis in axes]


def rounding(dtype, log_prob, k, mean, log_scale, levels):
    """What rounding alone may do to a log-probability: of itself, and of the position of its bin.

    L * mean is rounded, which moves a bin edge by up to eps |mean| / scale; the slope there is that of log P, bounded by
    the distance from the mean (Gaussian; the logistic is flatter).
    """
    distance = np.abs((k + 0.5) / levels - mean) * np.exp(-log_scale)
    moved = (1 + distance) * np.abs(mean) * np.exp(-log_scale)
    return float(jnp.finfo(dtype).eps) * (1 + np.abs(log_prob) + np.minimum(moved, distance**2 + moved))


@checks(d.normal_log_prob)
@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (3.0, -2.0), (-1.0, 2.0), (0.5, -12.0), (5.0, 4.0)])
def test_normal_integrates_to_one_and_equals_scipy(dtype, mean, log_std):
    eps, w = quadrature(-12.0, 12.0)
    # the offset from the mean is what the precision must hold, so put the mean at zero where it would swamp the scale
    mean = 0.0 if log_std < -10 else mean
    x = jnp.asarray(mean + eps * np.exp(log_std), dtype)[:, None]
    log_prob = np.asarray(d.normal_log_prob(x, dtype(mean), dtype(log_std)), np.float64)
    assert abs(np.sum(w * np.exp(log_std) * np.exp(log_prob)) - 1) < TOLERANCE[dtype]
    expected = scipy.stats.norm(mean, np.exp(log_std)).logpdf(np.asarray(x, np.float64)[:, 0])
    # relative to values of up to 80; eps (mean / scale) |x - mean| / scale is the rounding of x itself, compared as given
    np.testing.assert_allclose(log_prob, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@checks(d.multivariate_normal_log_prob)
@pytest.mark.parametrize("correlation", [0.0, 0.7, -0.95])
def test_multivariate_normal_integrates_to_one_and_equals_scipy(dtype, correlation):
    std, mean = np.array([1.3, 0.6]), np.array([0.4, -1.0])
    tril = np.linalg.cholesky(np.outer(std, std) * np.array([[1, correlation], [correlation, 1]]))
    x, w = quadrature(-12, 12, 200)
    points = np.stack(np.meshgrid(x, x), -1)
    arguments = (jnp.asarray(a, dtype) for a in (points, mean, tril))
    log_prob = np.asarray(d.multivariate_normal_log_prob(*arguments), np.float64)
    assert abs(np.sum(np.outer(w, w) * np.exp(log_prob)) - 1) < TOLERANCE[dtype]
    expected = scipy.stats.multivariate_normal(mean, tril @ tril.T).logpdf(points)
    # log-densities reach -5000 in the corners, where rho = -.95 makes the solve ten times less well conditioned
    np.testing.assert_allclose(log_prob, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_multivariate_normal_integrates_to_one_in_one_dimension(dtype):
    x, w = quadrature(-20, 20)
    log_prob = d.multivariate_normal_log_prob(
        jnp.asarray(x, dtype)[:, None], jnp.ones(1, dtype), jnp.full((1, 1), 1.5, dtype)
    )
    assert abs(np.sum(w * np.exp(np.asarray(log_prob, np.float64))) - 1) < TOLERANCE[dtype]


def test_one_factor_of_all_gives_what_copies_of_it_give():
    x, tril = np.random.RandomState(0).randn(2, 5, 3), jnp.array([[1.0, 0, 0], [0.5, 2, 0], [-1, 0.3, 0.7]])
    one = d.multivariate_normal_log_prob(x, jnp.ones(3), tril)
    copies = d.multivariate_normal_log_prob(x, jnp.ones(3), jnp.broadcast_to(tril, (5, 3, 3)))
    np.testing.assert_allclose(one, copies, rtol=1e-6)
    np.testing.assert_allclose(
        d.multivariate_normal_log_prob(x[0, 0], jnp.ones(3), tril), one[0, 0], rtol=1e-6
    )


def test_levels_in_eight_bits_do_not_wrap():
    """Also their gradient where the mean is far from the last bin, in which no branch that is not taken may be infinite."""
    levels = np.array([0, 128, 255], np.uint8)
    for law in (d.discretised_normal_log_prob, d.discretised_logistic_log_prob):
        both = [law(x[:, None], 0.5, -6.0) for x in (levels, levels.astype(np.float32))]
        np.testing.assert_array_equal(*both)
        assert np.isfinite(jax.grad(lambda mean, law=law: law(levels[2:], mean, -6.0))(0.5))


def test_draws_in_bfloat16_have_their_probabilities():
    """Counts within five standard deviations: false alarm 1e-6."""
    n, p = 100_000, 0.001
    logit = jnp.full(1, np.log(p / (1 - p)), jnp.bfloat16)
    p = float(jax.nn.sigmoid(logit.astype(jnp.float32))[0])
    ones = d.bernoulli_sample(jax.random.key(0), logit, (n,)).astype(jnp.float32).sum()
    assert abs(ones - n * p) < 5 * np.sqrt(n * p)
    firsts = (d.categorical_sample(jax.random.key(1), jnp.zeros(256, jnp.bfloat16), (n,)) == 0).sum()
    assert abs(firsts - n / 256) < 5 * np.sqrt(n / 256)
    places = jnp.broadcast_to(jnp.arange(0.5, 256) / 256, (1, 256)).astype(jnp.bfloat16)
    equal = jnp.zeros((1, 256), jnp.bfloat16), places, jnp.full((1, 256), -9.0, jnp.bfloat16)
    firsts = (d.discretised_logistic_mixture_sample(jax.random.key(2), *equal, shape=(n,)) == 0).sum()
    assert abs(firsts - n / 256) < 5 * np.sqrt(n / 256)
    std = 2.0**-7  # two levels
    levels = d.discretised_normal_sample(
        jax.random.key(3), jnp.full(1, 0.75, jnp.bfloat16), np.log(std), shape=(n,)
    )
    assert abs(levels.mean() + 0.5 - 192) < 5 * 256 * std / np.sqrt(n)


def test_multivariate_normal_with_diagonal_factor_is_the_diagonal_normal(dtype):
    x, mean, log_std = (jnp.asarray(np.random.RandomState(i).randn(5, 3), dtype) for i in range(3))
    full = d.multivariate_normal_log_prob(x, mean, jax.vmap(jnp.diag)(jnp.exp(log_std)))
    # twenty units in the last place: exp and log of log_std, and sums of squares of size 100
    np.testing.assert_allclose(
        full, d.normal_log_prob(x, mean, log_std), rtol=20 * float(jnp.finfo(dtype).eps)
    )


@checks(d.bernoulli_log_prob)
@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
def test_bernoulli_sums_to_one_over_all_bit_vectors_and_equals_scipy(dtype, scale):
    logits = jnp.asarray(scale * np.random.RandomState(0).randn(10), dtype)
    bits = all_binary(10).astype(dtype)
    log_prob = np.asarray(d.bernoulli_log_prob(bits, logits), np.float64)
    assert abs(np.exp(log_prob).sum() - 1) < TOLERANCE[dtype]
    signs = np.where(np.asarray(bits), 1.0, -1.0) * np.asarray(logits, np.float64)
    # l - softplus(l) leaves eps |l| a bit: 10 bits of size 60
    atol = 600 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(log_prob, scipy.special.log_expit(signs).sum(-1), rtol=1e-6, atol=atol)


def test_bernoulli_is_finite_with_right_gradient_at_extreme_logits(dtype):
    logits = jnp.asarray([-1e4, -200.0, -3.0, 0.0, 3.0, 200.0, 1e4], dtype)
    for x in (0.0, 1.0):
        value, gradient = jax.vmap(jax.value_and_grad(lambda l, x=x: d.bernoulli_log_prob(x, l, 0)))(logits)
        expected = scipy.special.log_expit((2 * x - 1) * np.asarray(logits, np.float64))
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gradient, x - jax.nn.sigmoid(logits), atol=2e-7)


@checks(d.categorical_log_prob)
@pytest.mark.parametrize("scale", [0.0, 5.0, 100.0])
def test_categorical_sums_to_one_over_all_sequences(dtype, scale):
    logits = jnp.asarray(scale * np.random.RandomState(0).randn(3, 4), dtype)
    x = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)
    log_prob = np.asarray(d.categorical_log_prob(x, logits), np.float64)
    assert abs(np.exp(log_prob).sum() - 1) < TOLERANCE[dtype]
    table = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    expected = table[np.arange(3), x].sum(-1)
    np.testing.assert_allclose(
        log_prob, expected, rtol=1e-6, atol=10 * (1 + scale) * float(jnp.finfo(dtype).eps)
    )


@on_both_laws
@pytest.mark.parametrize("levels", LEVELS)
def test_discretised_density_sums_to_one(dtype, law, levels):
    k = jnp.arange(levels, dtype=dtype)[:, None, None]
    mean, log_scale = jnp.asarray(MEANS, dtype)[:, None], jnp.asarray(LOG_SCALES, dtype)
    log_prob = jax.jit(lambda k, m, s: jnp.exp(law.log_prob(k, m, s, levels, event_ndim=0)))
    sums = np.asarray(log_prob(k, mean, log_scale)).sum(0, dtype=np.float64)
    np.testing.assert_allclose(sums, 1, atol=TOLERANCE[dtype])


@checks(d.discretised_logistic_log_prob, d.discretised_normal_log_prob)
@on_both_laws
@pytest.mark.parametrize("levels", LEVELS)
def test_discretised_density_equals_quadrature_of_each_bin(dtype, law, levels):
    """Within four times the rounding that cannot be avoided, and the 1e-13 of Gauss-Legendre weights from NumPy."""
    k, mean, log_scale = grid(levels, dtype)
    ours = law.log_prob(*(jnp.asarray(v, dtype) for v in (k, mean, log_scale)), levels, event_ndim=0)
    expected = log_level(law, k, mean, log_scale, levels)
    error = np.abs(np.asarray(ours, np.float64) - expected)
    assert np.isfinite(ours).all()
    assert (error <= 4 * rounding(dtype, expected, k, mean, log_scale, levels) + 1e-13).all()


@checks(d.discretised_logistic_mixture_log_prob)
def test_logistic_mixture_sums_to_one_and_is_the_weighted_sum_of_its_components(dtype):
    """Two elements with three components each; also K = 1, and weights so unequal that one rounds to zero."""
    rng = np.random.RandomState(0)
    logits = np.stack([rng.randn(3), [0.0, -200.0, 1.0]])
    mean, log_scale = rng.rand(2, 3) * 1.4 - 0.2, rng.randn(2, 3) - 2
    parts = [jnp.asarray(a, dtype) for a in (logits, mean, log_scale)]
    k = jnp.arange(16, dtype=dtype)[:, None]
    ours = d.discretised_logistic_mixture_log_prob(k, *parts, 16, event_ndim=0)
    each = d.discretised_logistic_log_prob(k[..., None], *parts[1:], 16, event_ndim=0)
    expected = (np.exp(np.asarray(each, np.float64)) * scipy.special.softmax(logits, axis=-1)).sum(-1)
    np.testing.assert_allclose(np.exp(ours), expected, rtol=1e-5 if dtype == jnp.float32 else 1e-12)
    np.testing.assert_allclose(np.exp(np.asarray(ours, np.float64)).sum(0), 1, atol=TOLERANCE[dtype])
    both = d.discretised_logistic_mixture_log_prob(jnp.concatenate([k, k], -1), *parts, 16)
    np.testing.assert_allclose(both, ours.sum(-1), rtol=1e-5)
    one = d.discretised_logistic_mixture_log_prob(k, *(p[:, :1] for p in parts), 16, event_ndim=0)
    np.testing.assert_allclose(one, each[..., 0], rtol=1e-6)


@on_both_laws
def test_the_oracle_of_the_bins_equals_cdf_differences(law):
    """Where SciPy's cdfs do not cancel: absolute error 1e-15 a difference of numbers of order one."""
    k = np.arange(256)
    a, b = ((k + i) / 256 - 0.37 for i in (0, 1))
    a[0], b[-1] = -np.inf, np.inf
    for log_scale in (-5.0, -2.0, 0.0, 2.0):
        cut = law.scipy(scale=np.exp(log_scale))
        expected = np.where(a + b < 0, cut.cdf(b) - cut.cdf(a), cut.sf(a) - cut.sf(b))
        ours = np.exp(log_level(law, k, 0.37, log_scale, 256))
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=2e-15)


@on_both_laws
@pytest.mark.parametrize("levels", [2, 256, 65536])
def test_discretised_gradients_equal_central_differences(law, levels, x64):
    """Central differences of the quadrature oracle, with a step h of the scale or of its logarithm.

    Their error: 1e-13 of the oracle and a rounding of its value and of its mean, all over h; and h^2 / 6 times a third
    derivative, at most a few times the squared standardised distance.
    """
    k, mean, log_scale = grid(levels, np.float64, np.array([-0.5, 0.001, 0.37, 1.2]))
    scale, h = np.exp(log_scale), 1e-5
    gradients = jax.grad(lambda m, s: law.log_prob(k, m, s, levels, event_ndim=0).sum(), (0, 1))(
        jnp.asarray(mean), jnp.asarray(log_scale)
    )
    value = np.abs(log_level(law, k, mean, log_scale, levels))
    distance = np.abs((k + 0.5) / levels - mean) / scale
    for ours, dm, ds in ((gradients[0] * scale, h * scale, 0.0), (gradients[1], 0.0, h)):
        ahead, behind = (log_level(law, k, mean + i * dm, log_scale + i * ds, levels) for i in (1, -1))
        rounded = 1e-13 + 1e-16 * (value + (1 + distance) * np.abs(mean) / scale)
        slack = rounded / h + h**2 * (1 + distance) ** 2
        assert (np.abs(ours - (ahead - behind) / (2 * h)) <= 2 * slack).all()


@on_both_laws
@pytest.mark.parametrize("levels", [2, 256, 65536])
def test_discretised_gradients_in_float32_are_finite_and_equal_float64(law, levels):
    """In tails of a million scales too; fifty float32 roundings of the gradient and of the standardised position."""
    arguments = grid(levels, np.float32)

    def gradients(dtype):
        k, mean, log_scale = (jnp.asarray(v, dtype) for v in arguments)
        total = jax.grad(lambda m, s: law.log_prob(k, m, s, levels, event_ndim=0).sum(), (0, 1))
        return [np.asarray(g, np.float64) for g in total(mean, log_scale)]

    single = gradients(jnp.float32)
    with jax.enable_x64(True):
        double = gradients(jnp.float64)
    k, mean, log_scale = arguments
    scale = np.exp(log_scale)
    distance = 1 + np.abs((k + 0.5) / levels - mean) / scale
    for ours, expected, unit in zip(single, double, (scale, 1.0), strict=True):
        assert np.isfinite(ours).all()
        position = distance if unit is scale else distance**2
        assert (np.abs(ours - expected) * unit <= 50 * 1.2e-7 * (np.abs(expected) * unit + position)).all()


def test_gradients_of_the_other_densities_equal_central_differences(x64):
    """Step 1e-5: 1e-10 times third derivatives of order one, and 1e-16 x 20 / 1e-5 from rounding."""
    rng = np.random.RandomState(2)
    x, mean = rng.randn(2, 3)
    tril = np.tril(rng.randn(3, 3) * 0.4, -1) + np.diag([0.7, 1.0, 1.4])
    functions = [
        (lambda p: d.normal_log_prob(p[0], p[1], p[2]), rng.randn(3, 3) * 0.5),
        (lambda p: d.multivariate_normal_log_prob(x, p, tril), mean),
        (lambda p: d.multivariate_normal_log_prob(x, mean, tril + jnp.tril(p)), np.zeros((3, 3))),
        (lambda p: d.bernoulli_log_prob(np.array([1.0, 0.0, 1.0]), p), x),
        (lambda p: d.categorical_log_prob(np.array([1, 0, 3]), p), rng.randn(3, 4)),
        (lambda p: jnp.sin(d.reparameterise(x, p[0], p[1])).sum(), rng.randn(2, 3) * 0.5),
    ]
    for function, at in functions:
        np.testing.assert_allclose(
            jax.grad(function)(jnp.asarray(at)), central_difference(function, at), atol=1e-8, rtol=1e-8
        )


@checks(d.reparameterise)
def test_reparameterised_noise_has_the_mean_and_scale(dtype):
    eps, mean, log_std = jnp.array([[1.0, -2.0]], dtype), jnp.array([0.5, 3.0], dtype), jnp.log(dtype(2.0))
    z = d.reparameterise(eps, mean, log_std)
    assert z.dtype == dtype
    np.testing.assert_allclose(z, [[2.5, -1.0]], rtol=1e-6)


def test_log_probs_broadcast_batch_first_event_last():
    x = jnp.zeros((7, 2, 4, 3))
    assert d.normal_log_prob(x, 0.0, 0.0, 2).shape == (7, 2)
    assert d.normal_log_prob(x, jnp.zeros((4, 3)), jnp.zeros(3), 3).shape == (7,)
    assert d.normal_log_prob(jnp.zeros(3), jnp.zeros((5, 3)), 0.0).shape == (5,)
    assert d.bernoulli_log_prob(x[0], x).shape == (7, 2, 4)
    assert d.categorical_log_prob(jnp.zeros((2, 5)), jnp.zeros((7, 2, 5, 3))).shape == (7, 2)
    assert d.categorical_log_prob(jnp.zeros((7, 2, 5)), jnp.zeros((5, 3))).shape == (7, 2)
    for shapes in [((2,), (2,), (3, 2, 2)), ((4, 1, 2), (3, 2), (2, 2)), ((3, 2), (2,), (3, 2, 2))]:
        value, mean, tril = (jnp.ones(shape) for shape in shapes)
        batch = np.broadcast_shapes(shapes[0], shapes[1], shapes[2][:-1])[:-1]
        assert d.multivariate_normal_log_prob(value, mean, jnp.tril(tril)).shape == batch
    for law in LAWS.values():
        assert law.log_prob(x, jnp.zeros((4, 3)), jnp.zeros(3), 4, event_ndim=2).shape == (7, 2)


def test_samplers_return_shape_batch_event_in_the_parameters_dtype(dtype):
    key, mean, log_std = jax.random.key(0), jnp.zeros((2, 1), dtype), jnp.zeros(3, dtype)
    draws = [
        (d.normal_sample(key, mean, log_std, (7, 5)), (7, 5, 2, 3)),
        (d.normal_sample(key, 0.0, log_std), (3,)),
        (d.multivariate_normal_sample(key, mean, jnp.ones((4, 2, 1, 1), dtype), (7,)), (7, 4, 2, 1)),
        (d.multivariate_normal_sample(key, 0.0, jnp.ones((4, 2, 1, 1), dtype), (7,)), (7, 4, 2, 1)),
        (d.bernoulli_sample(key, mean, (7,)), (7, 2, 1)),
        (d.categorical_sample(key, jnp.zeros((2, 5, 3), dtype), (7,)), (7, 2, 5)),
        (d.discretised_normal_sample(key, mean, log_std, 16, (7,)), (7, 2, 3)),
        (d.discretised_logistic_sample(key, mean, log_std, 16, (7,)), (7, 2, 3)),
    ]
    for draw, shape in draws:
        assert draw.shape == shape and draw.dtype == dtype


@checks(d.bits_per_dim)
def test_bits_per_dim_of_uniform_data():
    assert float(d.bits_per_dim(-12 * np.log(256), (4, 3))) == pytest.approx(8)
    # a density on [0, 1] that is uniform has log-density 0 and costs log2(256) bits a pixel
    assert float(d.bits_per_dim(0.0, (4, 3), 1 / 256)) == pytest.approx(8)
    assert float(d.bits_per_dim(-np.log(2.0), ())) == pytest.approx(1)


@pytest.mark.parametrize("levels", [1, 0, -3])
def test_fewer_than_two_levels_are_refused(levels):
    for law in LAWS.values():
        with pytest.raises(ValueError, match=f"at least 2 levels, got {levels}"):
            law.log_prob(jnp.zeros(1), 0.0, 0.0, levels)
        with pytest.raises(ValueError, match=f"at least 2 levels, got {levels}"):
            law.sample(jax.random.key(0), jnp.zeros(1), 0.0, levels)


def test_wrong_event_ndim_is_refused():
    for log_prob in (d.normal_log_prob, d.discretised_logistic_log_prob, d.discretised_normal_log_prob):
        with pytest.raises(ValueError, match="at least 2 event axes, got shape"):
            log_prob(jnp.zeros(3), 0.0, 0.0, event_ndim=2)
    for log_prob in (d.bernoulli_log_prob, lambda x, l, n: d.categorical_log_prob(x, l[..., None], n)):
        with pytest.raises(ValueError, match="at least 2 event axes, got shape"):
            log_prob(jnp.zeros(3), jnp.zeros(3), 2)
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        d.normal_log_prob(jnp.zeros(3), 0.0, 0.0, event_ndim=-1)


@pytest.mark.parametrize(
    "shape, width",
    [((3,), 0.0), ((3,), -1.0), ((3,), np.nan), ((3,), np.inf), ((0, 2), 1.0), ((-1, -2), 1.0)],
)
def test_bits_per_dim_of_nothing_is_refused(shape, width):
    with pytest.raises(ValueError, match="non-empty event and a positive bin width, got"):
        d.bits_per_dim(0.0, shape, width)
