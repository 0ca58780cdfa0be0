"""Autoencoder losses against proximal optimality, closed forms of a linear map under noise, and dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from dlvm_jax.functional import autoencoding
from tests.functional.common import central_difference, checks

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.RandomState(0)
X = RNG.randn(20, 7)
ORTHONORMAL = np.linalg.qr(RNG.randn(7, 4))[0]


@checks(autoencoding.squared_error)
def test_squared_error_is_a_sum_over_the_event_and_keeps_the_batch():
    x, y = RNG.randn(2, 3, 5, 4, 2)
    expected = np.square(x - y).sum((-3, -2, -1))
    np.testing.assert_allclose(autoencoding.squared_error(x, y, 3), expected, rtol=1e-14)
    assert autoencoding.squared_error(X[:, None], X).shape == (20, 20)  # broadcasts: all pairs
    assert autoencoding.squared_error(jnp.ones(2, jnp.bfloat16), 0.0).dtype == jnp.float32


@checks(autoencoding.sparse_penalty)
def test_sparse_penalty_is_the_l1_norm_with_a_gradient_of_zero_at_zero():
    np.testing.assert_allclose(autoencoding.sparse_penalty(X), np.linalg.norm(X, 1, axis=1), rtol=1e-14)
    gradient = jax.grad(autoencoding.sparse_penalty)(jnp.array([-2.0, 0.0, 3.0]))
    np.testing.assert_array_equal(gradient, [-1.0, 0.0, 1.0])


@checks(autoencoding.soft_threshold)
def test_soft_threshold_minimises_its_proximal_objective():
    """Brent's bounded search stops within 1e-9 of a minimum; at a kink it finds it less sharply: 1e-6."""
    for x in (-3.0, -0.4, 0.0, 0.6, 2.5):
        for threshold in (0.0, 0.5, 1.0):
            found = scipy.optimize.minimize_scalar(
                lambda z, x=x, t=threshold: 0.5 * (z - x) ** 2 + t * abs(z),
                bounds=(-5, 5),
                method="bounded",
                options={"xatol": 1e-9},
            )
            assert float(autoencoding.soft_threshold(x, threshold)) == pytest.approx(found.x, abs=1e-6)


@checks(autoencoding.sparse_code)
@pytest.mark.parametrize("weight", [0.0, 0.8, np.array([0.1, 0.5, 1.0, 4.0])], ids=["none", "one", "each"])
def test_sparse_code_is_optimal_for_squared_error_plus_sparse_penalty(weight):
    """The subgradient conditions, to rounding of sums of seven terms, with no use of the soft-threshold's formula."""
    code = np.asarray(autoencoding.sparse_code(X, ORTHONORMAL, weight))
    fit = jax.vmap(jax.grad(lambda z, x: autoencoding.squared_error(x, ORTHONORMAL @ z)))(code, X)
    weights = np.broadcast_to(weight, code.shape)
    active = code != 0
    np.testing.assert_allclose(fit[active], -(weights * np.sign(code))[active], atol=1e-13)
    assert (np.abs(fit)[~active] <= weights[~active]).all()
    assert active.all() if np.all(weight == 0) else not active.all() and active.any()


def test_sparse_code_beats_every_perturbation_under_the_loss_itself():
    def loss(z):
        return autoencoding.squared_error(X, z @ ORTHONORMAL.T) + 0.8 * autoencoding.sparse_penalty(z)

    code = autoencoding.sparse_code(X, ORTHONORMAL, 0.8)
    for size in (1e-3, 0.1, 1.0):
        other = code + size * RNG.randn(50, *code.shape)
        assert (loss(other) > loss(code)).all()


NOISE = {
    "gaussian": (autoencoding.gaussian_corruption, 0.7),
    "masking": (autoencoding.masking_corruption, 0.3),
}


def expected_error(name, level, a, x):
    """E|A x~ - x|^2: noise of variance s^2 adds s^2 |A|_F^2; masking is a mean (1 - r) x with variance r (1 - r) x_i^2."""
    if name == "gaussian":
        return np.square(a @ x - x).sum() + level**2 * np.square(a).sum()
    return np.square((1 - level) * a @ x - x).sum() + level * (1 - level) * (x**2 @ np.square(a).sum(0))


@checks(autoencoding.gaussian_corruption, autoencoding.masking_corruption)
@pytest.mark.parametrize("name", NOISE)
def test_denoising_loss_of_a_linear_map_has_its_closed_form(name):
    """Within 4.5 standard errors of 20 means of 20,000 draws each: false alarm 20 x 7e-6."""
    corrupt, level = NOISE[name]
    a = RNG.randn(7, 7)
    for i, x in enumerate(X):
        noisy = corrupt(jax.random.key(i), np.broadcast_to(x, (20_000, 7)), level)
        error = np.asarray(autoencoding.squared_error(x, noisy @ a.T))
        standard_error = error.std() / np.sqrt(len(error))
        assert abs(error.mean() - expected_error(name, level, a, x)) < 4.5 * standard_error


@pytest.mark.parametrize("name", NOISE)
def test_corruption_keeps_shape_and_dtype_and_is_nothing_at_level_zero(name):
    corrupt, _ = NOISE[name]
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.asarray(X, dtype)
        np.testing.assert_array_equal(corrupt(jax.random.key(0), x, 0.0), x)
        noisy = jax.jit(corrupt)(jax.random.key(0), x, 0.5)
        assert noisy.shape == x.shape and noisy.dtype == dtype
        assert (noisy != x).any()


def test_masking_zeroes_the_stated_fraction_and_keeps_the_rest():
    """A count of 40,000 Bernoulli(0.3) within 4.5 standard deviations: false alarm 7e-6."""
    noisy = np.asarray(autoencoding.masking_corruption(jax.random.key(0), jnp.full(40_000, 2.0), 0.3))
    assert set(noisy) == {0.0, 2.0}
    assert abs((noisy == 0).mean() - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / 40_000)
    masked = autoencoding.masking_corruption(jax.random.key(0), jnp.full(5, jnp.nan), 1.0)
    np.testing.assert_array_equal(masked, 0)


HIDDEN, OUT = RNG.randn(7, 9), RNG.randn(9, 4)


def deep_encoder(x):
    return jnp.tanh(jnp.tanh(x @ HIDDEN) @ OUT)


@checks(autoencoding.contractive_penalty)
def test_contractive_penalty_is_that_of_the_dense_jacobian():
    jacobian = jax.vmap(jax.jacfwd(deep_encoder))(X)
    expected = np.square(jacobian).sum((1, 2))
    np.testing.assert_allclose(autoencoding.contractive_penalty(deep_encoder, X), expected, rtol=1e-12)
    images = X[:18].reshape(3, 6, 7)  # two event axes and no network knows them flat
    encode = lambda x: jnp.tanh(x.reshape(*x.shape[:-2], -1) @ np.tile(HIDDEN, (6, 1)))
    expected = np.square(jax.vmap(jax.jacrev(encode))(images)).sum((1, 2, 3))
    np.testing.assert_allclose(autoencoding.contractive_penalty(encode, images, 2), expected, rtol=1e-12)
    assert autoencoding.contractive_penalty(deep_encoder, X[:18].reshape(2, 9, 7)).shape == (2, 9)
    assert autoencoding.contractive_penalty(deep_encoder, X[0]).shape == ()


def test_contractive_penalty_of_a_sigmoid_layer_has_its_published_form():
    """Rifai et al. 2011, section 3: sum_j (h_j (1 - h_j))^2 sum_i W_ij^2."""
    h = jax.nn.sigmoid(X @ HIDDEN)
    expected = np.square(h * (1 - h)) @ np.square(HIDDEN).sum(0)
    penalty = autoencoding.contractive_penalty(lambda x: jax.nn.sigmoid(x @ HIDDEN), X)
    np.testing.assert_allclose(penalty, expected, rtol=1e-12)


def test_contractive_gradient_equals_central_differences_under_jit():
    """Step 1e-5: 1e-16 of values of size 100 over the step, third derivatives of size 1000 times 1e-10 / 6."""

    @jax.jit
    def penalty(w):
        return autoencoding.contractive_penalty(lambda x: jnp.tanh(x @ w), X).mean()

    gradient = jax.grad(penalty)(jnp.asarray(HIDDEN))
    np.testing.assert_allclose(gradient, central_difference(penalty, HIDDEN), atol=1e-7, rtol=1e-7)
