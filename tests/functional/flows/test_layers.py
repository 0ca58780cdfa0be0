"""Linear maps, image layers and continuous flows: log-determinants, round trips, closed forms, order of convergence."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from dlvm_jax.functional import densities
from dlvm_jax.functional.flows import autoregressive, image, linear, orthogonal
from dlvm_jax.functional.flows.continuous import continuous, continuous_inverse, flow_matching_loss
from tests.functional.common import central_difference, checks

BATCH = 3


def draws(key, *shapes):
    return [jax.random.normal(k, s) for k, s in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]


def velocity(w, b):
    return lambda x, t: jnp.tanh(jnp.einsum("...ij,...j->...i", w, x, precision="highest") + t * b)


def lu(key, size):
    """A rotation made less special: the free numbers are moved."""
    a, lower, upper, diagonal = draws(key, (size, size), (size, size), (size, size), (size,))
    start = linear.lu_from_matrix(orthogonal.orthonormal(a))
    return linear.LU(start.order, start.lower + lower, start.upper + upper, diagonal, start.signs)


# Map, inverse, shape of the event, parameters.
FLAT = {
    "affine": (linear.affine, linear.affine_inverse, (4,), lambda key: draws(key, (BATCH, 4), (BATCH, 4))),
    "affine of channels": (
        lambda z, *p: linear.affine(z, *p, event_ndim=3),
        lambda y, *p: linear.affine_inverse(y, *p, event_ndim=3),
        (2, 2, 3),
        lambda key: draws(key, (3,), (3,)),
    ),
    "permute": (
        linear.permute,
        linear.permute_inverse,
        (5,),
        lambda key: (jax.random.permutation(key, 5),),
    ),
    "lu_linear": (linear.lu_linear, linear.lu_linear_inverse, (4,), lambda key: (lu(key, 4),)),
    "1x1 convolution": (
        lambda z, *p: linear.lu_linear(z, *p, event_ndim=3),
        lambda y, *p: linear.lu_linear_inverse(y, *p, event_ndim=3),
        (2, 2, 3),
        lambda key: (lu(key, 3),),
    ),
    "squeeze": (image.squeeze, image.unsqueeze, (4, 2, 3), lambda key: ()),
    "logit": (image.logit, image.logit_inverse, (2, 2, 1), lambda key: ()),
    "continuous": (
        lambda z, w, b: continuous(z, velocity(w, b), 100),
        lambda y, w, b: continuous_inverse(y, velocity(w, b), 100),
        (3,),
        lambda key: draws(key, (BATCH, 3, 3), (BATCH, 3)),
    ),
}


def matches_jacobian(function, x, log_det, event):
    """Against slogdet of the Jacobian of each example; `function` takes the whole batch."""
    size = math.prod(event)
    jacobian = jax.jacfwd(lambda x: function(x).reshape(BATCH, size))(x).reshape(BATCH, size, BATCH, size)
    own = jnp.moveaxis(jnp.diagonal(jacobian, axis1=0, axis2=2), -1, 0)
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(own)[1], rtol=0, atol=1e-9)


@checks(
    linear.affine,
    linear.affine_inverse,
    linear.permute,
    linear.permute_inverse,
    linear.lu_linear,
    linear.lu_linear_inverse,
    image.logit,
    image.logit_inverse,
    continuous,
    continuous_inverse,
)
@pytest.mark.parametrize("name", FLAT)
@pytest.mark.usefixtures("x64")
def test_log_det_is_that_of_the_autodiff_jacobian_and_the_inverse_undoes_the_map(name):
    """On the unit cube, where the logit lives.  Rounding; for the continuous flow errors of order steps^-4, below 1e-9."""
    forward, inverse, event, parameters = FLAT[name]
    key = jax.random.key(1)
    p, z = parameters(key), jax.random.uniform(jax.random.fold_in(key, 1), (BATCH, *event))
    y, log_det = jax.jit(forward)(z, *p)
    back, log_det_back = jax.jit(inverse)(y, *p)
    assert log_det.shape == (BATCH,) and log_det.dtype == jnp.float64
    np.testing.assert_allclose(back, z, rtol=0, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=0, atol=1e-9)
    matches_jacobian(jax.jit(lambda z: forward(z, *p)[0]), z, log_det, event)


@checks(linear.actnorm_statistics)
def test_actnorm_gives_each_channel_mean_zero_and_variance_one(dtype):
    """A constant channel, whose mean could be off by rounding, keeps its scale."""
    x = jax.random.normal(jax.random.key(0), (7, 3, 5, 4), dtype) * jnp.array([1e-3, 1.0, 50.0, 0.0], dtype)
    x = x + jnp.array([0.0, 3.0, -70.0, 1000.1], dtype)
    shift, log_scale = jax.jit(linear.actnorm_statistics)(x)
    y, log_det = linear.affine(x, shift, log_scale, event_ndim=3)
    tolerance = {jnp.float32: 1e-5, jnp.float64: 1e-12}[dtype]
    np.testing.assert_allclose(y[..., :3].mean((0, 1, 2)), 0.0, atol=tolerance)
    np.testing.assert_allclose(y[..., :3].var((0, 1, 2)), 1.0, rtol=tolerance)
    assert float(log_scale[3]) == 0.0 and not y[..., 3].any()
    np.testing.assert_allclose(log_det, 15 * float(log_scale.sum()), rtol=tolerance)


def test_actnorm_of_data_of_any_size():
    x = np.random.RandomState(0).randn(50, 3).astype(np.float32)
    shift, log_scale = linear.actnorm_statistics(x)
    for size in (1e-30, 1e-22, 1e22, 1e30):
        got = linear.actnorm_statistics(x * np.float32(size))
        np.testing.assert_allclose(got[0], shift, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got[1], log_scale - np.log(size), rtol=1e-6)


@checks(linear.lu_from_matrix, linear.lu_linear)
@pytest.mark.usefixtures("x64")
def test_lu_factors_a_matrix_and_a_rotation_keeps_volume():
    a = np.random.RandomState(0).randn(6, 6)
    rotation = orthogonal.orthonormal(jnp.asarray(a))
    z = jnp.asarray(np.random.RandomState(1).randn(5, 6))
    for matrix, log_det in ((jnp.asarray(a), np.linalg.slogdet(a)[1]), (rotation, 0.0)):
        lu_matrix = jax.jit(linear.lu_from_matrix)(matrix)
        y, got = linear.lu_linear(z, lu_matrix)
        np.testing.assert_allclose(y, z @ matrix.T, atol=1e-13)
        np.testing.assert_allclose(got, log_det, atol=1e-13)
    permuted, _ = scipy.linalg.lu(a, permute_l=True)
    lower = jnp.tril(linear.lu_from_matrix(jnp.asarray(a)).lower, -1) + jnp.eye(6)
    np.testing.assert_allclose(lower[linear.lu_from_matrix(jnp.asarray(a)).order], permuted, atol=1e-13)
    with pytest.raises(ValueError, match=r"one square matrix, got shape \(2, 3\)"):
        linear.lu_from_matrix(jnp.ones((2, 3)))


@checks(image.space_to_depth, image.depth_to_space)
@pytest.mark.parametrize("size", [2, 3])
def test_blocks_of_pixels_go_to_channels_and_back(size):
    x = jnp.arange(2 * 6 * 12 * 3).reshape(2, 6, 12, 3)
    y = image.space_to_depth(x, size)
    assert y.shape == (2, 6 // size, 12 // size, size**2 * 3)
    for i, j in itertools.product(range(size), repeat=2):
        place = 3 * (size * i + j)
        np.testing.assert_array_equal(y[..., place : place + 3], x[:, i::size, j::size])
    np.testing.assert_array_equal(image.depth_to_space(y, size), x)


@checks(image.squeeze, image.unsqueeze, image.checkerboard_split, image.checkerboard_merge)
def test_squeeze_and_checkerboard_put_each_element_in_its_place():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(float)
    y, _ = image.squeeze(x)
    assert y.shape == (2, 2, 3, 12)
    for i, j in itertools.product(range(2), repeat=2):
        np.testing.assert_array_equal(y[..., 3 * (2 * i + j) : 3 * (2 * i + j) + 3], x[:, i::2, j::2])
    np.testing.assert_array_equal(image.unsqueeze(y)[0], x)
    black, white = image.checkerboard_split(x)
    mask = np.add.outer(np.arange(4), np.arange(6)) % 2 == 0
    np.testing.assert_array_equal(black.reshape(2, -1, 3), np.asarray(x)[:, mask])
    np.testing.assert_array_equal(white.reshape(2, -1, 3), np.asarray(x)[:, ~mask])
    np.testing.assert_array_equal(image.checkerboard_merge(black, white), x)
    with pytest.raises(ValueError, match=r"patches of 2 x 2 do not tile images .* of shape \(4, 3, 1\)"):
        image.squeeze(jnp.ones((4, 3, 1)))
    with pytest.raises(ValueError, match=r"even width, got shape \(4, 3, 1\)"):
        image.checkerboard_split(jnp.ones((4, 3, 1)))
    with pytest.raises(ValueError, match=r"channels \[\*batch, H, W, 4 C\], got shape \(4, 4, 3\)"):
        image.unsqueeze(jnp.ones((4, 4, 3)))


@checks(image.logit, image.logit_inverse)
def test_logit_is_safe_at_both_ends_in_float32():
    """Against float64; the inverse returns the grey values themselves."""
    x = jnp.array([0.0, 1e-7, 0.5, 1 - 6e-8, 1.0], jnp.float32)
    for alpha in (1e-6, 0.05):
        y, log_det = jax.vmap(lambda x: image.logit(x[None], alpha, 1))(x)  # noqa: B023
        p = alpha + (1 - 2 * alpha) * np.asarray(x, np.float64)
        np.testing.assert_allclose(y[:, 0], np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(log_det, np.log((1 - 2 * alpha) / p / (1 - p)), rtol=1e-5)
        back, log_det_back = jax.vmap(lambda y: image.logit_inverse(y, alpha, 1))(y)  # noqa: B023
        np.testing.assert_allclose(back[:, 0], x, atol=1e-6)
        np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-5)
        assert np.isfinite(jax.vmap(jax.grad(lambda x: image.logit(x, alpha, 0)[1]))(x)).all()  # noqa: B023
    for function in (image.logit, image.logit_inverse):
        with pytest.raises(ValueError, match=r"a number in \[0, 0.5\), got 0.5"):
            function(x, 0.5)


@checks(image.dequantise)
def test_dequantised_levels_stay_in_their_cells_and_a_uniform_model_gives_eight_bits():
    x = jax.random.randint(jax.random.key(0), (20, 8, 8, 1), 0, 256).at[10:].set(255)
    v, log_volume = jax.jit(image.dequantise)(jax.random.key(1), x)
    assert v.dtype == jnp.float32 and v.shape == x.shape and float(v.min()) >= 0
    uniform_log_prob = jnp.zeros(20)
    bits = densities.bits_per_dim(uniform_log_prob + log_volume, (8, 8, 1))
    np.testing.assert_allclose(bits, 8.0, rtol=1e-6)
    level = np.asarray(256 * np.asarray(v, np.float64) - x)
    assert (level >= 0).all() and (level <= 1).all()
    # mean of 1280 uniform numbers: five standard errors, false alarm 6e-7
    assert abs(level.mean() - 0.5) < 5 / np.sqrt(12 * level.size)
    many, _ = jax.jit(lambda key: image.dequantise(key, jnp.full((1000, 1000, 1, 1), 255)))(jax.random.key(2))
    assert float(many.max()) < 1.0  # 255 + u rounds to 256 for one draw in 130,000
    with pytest.raises(ValueError, match=r"1 to 2\^16 levels.*got 0"):
        image.dequantise(jax.random.key(0), x, levels=0)


@checks(continuous)
@pytest.mark.usefixtures("x64")
def test_a_linear_equation_has_the_matrix_exponential_and_the_trace():
    """The trace by every Rademacher probe, of which there are 2^D: their mean is exact, and each keeps its own all the way."""
    a = np.random.RandomState(0).randn(3, 3)
    z = jnp.asarray(np.random.RandomState(1).randn(5, 3))
    field = lambda x, t: x @ a.T
    y, log_det = continuous(z, field, 100)
    np.testing.assert_allclose(y, z @ scipy.linalg.expm(a).T, atol=1e-7)
    np.testing.assert_allclose(log_det, np.trace(a), atol=1e-13)
    probes = jnp.asarray(list(itertools.product([-1, 1], repeat=3)))
    alike = jnp.broadcast_to(z[:1], (8, 3))
    same, estimate = continuous(alike, field, 100, probe=probes)
    np.testing.assert_allclose(same, jnp.broadcast_to(y[:1], (8, 3)), atol=1e-13)
    np.testing.assert_allclose(estimate, np.einsum("ki,ij,kj->k", probes, a, probes), atol=1e-13)
    assert float(estimate.mean()) == pytest.approx(np.trace(a), abs=1e-13) and float(estimate.std()) > 0.1


@pytest.mark.usefixtures("x64")
def test_errors_fall_with_the_fourth_power_of_the_steps():
    """Value, log-determinant and round trip: halving the step divides them by 16, from 10 to 20 steps within a quarter."""
    w, b = draws(jax.random.key(2), (3, 3), (3,))
    z = jax.random.normal(jax.random.key(3), (4, 3))
    exact, exact_log_det = continuous(z, velocity(w, b), 200)

    def errors(steps):
        y, log_det = continuous(z, velocity(w, b), steps)
        back, log_det_back = continuous_inverse(y, velocity(w, b), steps)
        both = (y - exact, log_det - exact_log_det, back - z, log_det + log_det_back)
        return np.array([float(jnp.abs(error).max()) for error in both])

    rates = np.log2(errors(10) / errors(20))
    assert (rates[:2] > 3.7).all() and (rates[:2] < 4.3).all(), rates
    assert (rates[2:] > 3.7).all(), rates  # the two directions' errors cancel in part
    with pytest.raises(ValueError, match="at least one step, got 0"):
        continuous(z, velocity(w, b), 0)


@pytest.mark.usefixtures("x64")
def test_gradients_through_a_continuous_flow_equal_central_differences():
    w, b, z = draws(jax.random.key(4), (2, 2), (2,), (3, 2))

    @jax.jit
    def loss(z, w, b):
        y, log_det = continuous(z, velocity(w, b), 5)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.square(log_det + 1))

    for i, gradient in enumerate(jax.grad(loss, (0, 1, 2))(z, w, b)):
        numeric = central_difference(
            lambda v, i=i: loss(*[v if i == j else u for j, u in enumerate((z, w, b))]), (z, w, b)[i]
        )
        np.testing.assert_allclose(gradient, numeric, atol=1e-7)


@checks(flow_matching_loss)
@pytest.mark.usefixtures("x64")
def test_the_minimiser_of_flow_matching_takes_one_gaussian_to_another():
    """From N(0, 1) to N(m, s^2) the velocity is m + (t s^2 - (1 - t)) (x - t m) / ((1 - t)^2 + t^2 s^2), its flow z -> m + s z.

    The residual of the regression is orthogonal to every function of x_t: Gauss-Hermite, exact for polynomials.
    """
    mean, std = 1.5, 0.4

    def best(x, t):
        t = jnp.reshape(t, jnp.shape(t) + (1,) * (jnp.ndim(x) - jnp.ndim(t)))
        return mean + (t * std**2 - (1 - t)) * (x - t * mean) / ((1 - t) ** 2 + t**2 * std**2)

    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    x0, x1 = (v.reshape(-1, 1) for v in np.meshgrid(nodes, mean + std * nodes, indexing="ij"))
    weight = np.outer(weights, weights).ravel() / (2 * np.pi)
    for time in (0.1, 0.5, 0.9):
        t = jnp.full(len(x0), time)

        def loss(size, other, t=t):
            field = lambda x, t: best(x, t) + size * other(x)
            return weight @ flow_matching_loss(field, x0, x1, t)

        for other in (jnp.ones_like, lambda x: x, lambda x: x**3 - x**2):
            assert abs(float(jax.grad(loss)(0.0, other))) < 1e-12
            assert float(loss(0.1, other)) > float(loss(0.0, other))
    z = jnp.linspace(-3, 3, 7)[:, None]
    y, log_det = continuous(z, best, 100)
    np.testing.assert_allclose(y, mean + std * z, atol=1e-7)
    np.testing.assert_allclose(log_det, np.log(std), atol=1e-7)


def test_autoregressive_inverse_of_integers_is_not_cut_to_integers():
    half = lambda z: (jnp.full_like(z, 0.5), jnp.zeros_like(z))
    z, _ = autoregressive.autoregressive_inverse(jnp.array([4, 5]), half)
    np.testing.assert_array_equal(z, [3.5, 4.5])
