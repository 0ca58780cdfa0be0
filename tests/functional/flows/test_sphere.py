"""Flows on the sphere: log-determinants between tangent planes, round trips, densities, closed forms, hard parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from dlvm_jax.functional.flows import sphere
from dlvm_jax.functional.flows.roots import monotone_root
from dlvm_jax.functional.spherical import to_sphere, uniform_sphere_log_prob, uniform_sphere_sample
from tests.functional.common import central_difference, checks, quadrature

BATCH = 3


def draws(key, *shapes):
    return [jax.random.normal(k, s) for k, s in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]


def turn(amount, phase, weight):
    """Angles moved by a sine whose strength depends on the height; and back."""

    def strength(height):
        return amount * jnp.cos(weight * height)

    def forward(theta, height):
        a = strength(height)
        return theta + a * jnp.sin(theta - phase), jnp.log1p(a * jnp.cos(theta - phase))

    def inverse(theta, height):
        a = strength(height)
        start = monotone_root(lambda t: t + a * jnp.sin(t - phase), theta, theta - 1, theta + 1)
        return start, -jnp.log1p(a * jnp.cos(start - phase))

    return forward, inverse


def lift(c):
    """The interval [-1, 1] bent by a parabola; and back."""

    def forward(height):
        return height + c / 2 * (1 - height**2), jnp.log1p(-c * height)

    def inverse(height):
        start = monotone_root(lambda h: h + c / 2 * (1 - h**2), height, -1.0, 1.0)
        return start, -jnp.log1p(-c * start)

    return forward, inverse


def recursive(direction):
    """S^2 for one height map, S^3 for two."""
    flow = (sphere.recursive_sphere, sphere.recursive_sphere_inverse)[direction]

    def apply(x, amount, phase, weight, *bends):
        side = sphere.on_circle(turn(0.7 * jnp.tanh(amount), phase, weight)[direction])
        for bend in bends[:-1]:
            inner = side
            side = lambda s, h, bend=bend, inner=inner: flow(
                s, lift(0.7 * jnp.tanh(bend + h))[direction], lambda r, _: inner(r, h)
            )
        return flow(x, lift(0.7 * jnp.tanh(bends[-1]))[direction], side)

    return apply


def radial(share, steepness):
    def make(key, dim):
        centres, a, b = draws(key, (BATCH, 4, dim + 1), (BATCH, 4), (BATCH, 4))
        return to_sphere(centres), share * jax.nn.softmax(a), steepness * jax.nn.softplus(b)

    return make


def quadratic(share):
    def make(key, dim):
        mu, a = draws(key, (BATCH, dim + 1), (BATCH, dim + 1, dim + 1))
        values = jnp.linalg.eigvalsh(a + jnp.swapaxes(a, 1, 2))
        size = jnp.linalg.norm(mu, axis=-1) + values[:, -1] - values[:, 0]
        return share * mu / size[:, None], share * a / size[:, None, None]

    return make


def along(gradient, flow):
    return lambda x, *p: flow(x, lambda x: gradient(x, *p))


def exponential(gradient, parameters, dim):
    maps = (along(gradient, flow) for flow in (sphere.exponential_map, sphere.exponential_map_inverse))
    return (*maps, dim, lambda key: parameters(key, dim))


CURVED = {
    "recursive": (recursive(0), recursive(1), 2, lambda key: draws(key, *[(BATCH,)] * 4)),
    "radial": exponential(sphere.radial_gradient, radial(0.6, 3.0), 2),
    "polynomial": exponential(sphere.polynomial_gradient, quadratic(0.6), 2),
    "recursive twice": (recursive(0), recursive(1), 3, lambda key: draws(key, *[(BATCH,)] * 5)),
    "radial on the circle": exponential(sphere.radial_gradient, radial(0.6, 3.0), 1),
    "radial in four dimensions": exponential(sphere.radial_gradient, radial(0.6, 3.0), 4),
}
CURVES = pytest.mark.parametrize("name", CURVED)


def tangent_basis(x):
    """Orthonormal columns normal to each x [batch, n]: [batch, n, n - 1]."""
    return np.stack([scipy.linalg.null_space(row[None]) for row in np.asarray(x)])


def sphere_setting(name, seed=0):
    forward, inverse, dim, parameters = CURVED[name]
    key = jax.random.key(seed)
    return (
        forward,
        inverse,
        uniform_sphere_sample(key, dim + 1, (BATCH,)),
        parameters(jax.random.fold_in(key, 1)),
    )


@pytest.mark.usefixtures("x64")
def test_a_height_that_moves_alone_changes_the_size_of_its_side():
    """log f'(h) + (D/2 - 1) log (1 - f(h)^2) / (1 - h^2), where the side stays; the last term needs D of at least 3."""
    dim = 3
    x = uniform_sphere_sample(jax.random.key(0), dim + 1, (4,))
    (forward, inverse), side = lift(0.6), lambda s, h: (s, jnp.zeros_like(h))
    height, slope = forward(x[:, -1])
    y, log_det = sphere.recursive_sphere(x, forward, side)
    expected = slope + (dim / 2 - 1) * (jnp.log(1 - height**2) - jnp.log(1 - x[:, -1] ** 2))
    np.testing.assert_allclose(log_det, expected, rtol=1e-12)
    np.testing.assert_allclose(y[:, -1], height, rtol=1e-12)
    np.testing.assert_allclose(sphere.recursive_sphere_inverse(y, inverse, side)[1], -expected, rtol=1e-10)


@checks(
    sphere.recursive_sphere,
    sphere.recursive_sphere_inverse,
    sphere.on_circle,
    sphere.exponential_map,
    sphere.exponential_map_inverse,
)
@CURVES
@pytest.mark.usefixtures("x64")
def test_on_the_sphere_log_det_is_that_of_the_jacobian_between_tangent_planes(name):
    """1/2 log det(E^T J^T J E); the points stay on the sphere; the inverse undoes the map.  Measured below 1e-12."""
    forward, inverse, x, p = sphere_setting(name)

    @jax.jit
    def everything(x, p):
        y, log_det = forward(x, *p)
        jacobian = jax.vmap(jax.jacfwd(lambda x, p: forward(x, *p)[0]))(x, p)
        return y, log_det, jacobian, inverse(y, *p), forward(inverse(x, *p)[0], *p)[0]

    y, log_det, jacobian, (back, log_det_back), there = everything(x, p)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), 1.0, atol=1e-14)
    pushed = np.asarray(jacobian) @ tangent_basis(x)
    gram = np.swapaxes(pushed, 1, 2) @ pushed
    np.testing.assert_allclose(log_det, 0.5 * np.linalg.slogdet(gram)[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=0, atol=1e-9)
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-9)
    np.testing.assert_allclose(there, x, rtol=0, atol=1e-9)
    assert np.abs(y - x).max() > 0.02 and np.abs(log_det).max() > 0.02


@CURVES
@pytest.mark.usefixtures("x64")
def test_on_the_sphere_gradients_of_the_inverse_equal_central_differences(name):
    """For the value and every parameter; step 1e-5, slopes of order ten: 1e-7."""
    forward, inverse, x, p = sphere_setting(name, 2)
    tree = [forward(x, *p)[0], *p]

    @jax.jit
    def loss(y, *p):
        x, log_det = inverse(to_sphere(y), *p)
        return jnp.sum(jnp.sin(x) * jnp.arange(1.0, x.shape[-1] + 1)) + jnp.sum(jnp.square(log_det + 1))

    gradients = jax.jit(jax.grad(loss, argnums=tuple(range(len(tree)))))(*tree)
    for i, gradient in enumerate(gradients):
        numeric = central_difference(lambda v, i=i: loss(*tree[:i], v, *tree[i + 1 :]), tree[i])
        np.testing.assert_allclose(gradient, numeric, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in CURVED if CURVED[name][2] == 2])
@pytest.mark.usefixtures("x64")
def test_density_on_the_sphere_integrates_to_one(name):
    """The uniform law pushed forward; Gauss-Legendre in the height, trapezoids in the angle.  Measured below 1e-9."""
    _, inverse, _, p = sphere_setting(name, 1)
    height, weight = quadrature(-1, 1, 40)
    angle = np.linspace(-np.pi, np.pi, 80, endpoint=False)
    grid = np.stack(np.meshgrid(height, angle, indexing="ij"), -1).reshape(-1, 1, 2)
    side = jnp.stack([jnp.cos(grid[..., 1]), jnp.sin(grid[..., 1])], -1)
    x, log_det = sphere.from_cylinder(jnp.asarray(grid[..., 0]), side)
    assert not log_det.any()  # the area of the cylinder is that of the sphere
    x = jnp.broadcast_to(x, (len(x), BATCH, 3))
    start, log_det = jax.jit(inverse)(x, *p)
    density = jnp.exp(uniform_sphere_log_prob(start) + log_det).reshape(40, 80, BATCH)
    total = np.einsum("i,ijb->b", weight, density) * 2 * np.pi / 80
    np.testing.assert_allclose(total, 1.0, atol=1e-7)


@checks(sphere.radial_gradient, sphere.polynomial_gradient)
@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_their_potentials():
    key = jax.random.key(4)
    x, (centres, alpha, beta), (mu, a) = (
        jax.random.normal(key, (BATCH, 3)),
        radial(0.6, 3.0)(key, 2),
        quadratic(0.6)(key, 2),
    )
    for row in range(BATCH):
        sums = lambda x, row=row: jnp.sum(
            alpha[row] / beta[row] * jnp.exp(beta[row] * (centres[row] @ x - 1))
        )
        form = lambda x, row=row: mu[row] @ x + x @ a[row] @ x
        np.testing.assert_allclose(
            sphere.radial_gradient(x, centres, alpha, beta)[row], jax.grad(sums)(x[row]), rtol=1e-12
        )
        np.testing.assert_allclose(
            sphere.polynomial_gradient(x, mu, a)[row], jax.grad(form)(x[row]), rtol=1e-12
        )


@checks(sphere.exponential_map)
@pytest.mark.usefixtures("x64")
def test_one_radial_potential_moves_points_along_meridians():
    """theta' = theta - alpha sin(theta) e^(beta (cos theta - 1)), area sin(theta') dtheta' / (sin(theta) dtheta)."""
    theta, alpha, beta = np.linspace(0.05, 3.1, 30), 0.7, 4.0
    x = jnp.stack([jnp.sin(theta), 0 * theta, jnp.cos(theta)], -1)
    gradient = lambda x: sphere.radial_gradient(
        x, jnp.array([[0.0, 0.0, 1.0]]), jnp.array([alpha]), jnp.array([beta])
    )
    y, log_det = jax.jit(lambda x: sphere.exponential_map(x, gradient))(x)
    pull = alpha * np.exp(beta * (np.cos(theta) - 1))
    moved = theta - pull * np.sin(theta)
    slope = 1 - pull * (np.cos(theta) - beta * np.sin(theta) ** 2)
    np.testing.assert_allclose(y, np.stack([np.sin(moved), 0 * theta, np.cos(moved)], -1), atol=1e-13)
    np.testing.assert_allclose(log_det, np.log(slope * np.sin(moved) / np.sin(theta)), atol=1e-12)
    centre, log_det = sphere.exponential_map(jnp.array([0.0, 0.0, 1.0]), gradient)  # where v = 0
    np.testing.assert_array_equal(centre, [0.0, 0.0, 1.0])
    assert float(log_det) == pytest.approx(2 * np.log(1 - alpha), abs=1e-13)
    slopes = jax.jit(jax.grad(lambda x: sphere.exponential_map(to_sphere(x), gradient)[1]))
    near, at = slopes(to_sphere(jnp.array([1e-6, 0.0, 1.0]))), slopes(jnp.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(near, at, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_a_quadratic_potential_within_its_bound_is_invertible_and_the_entries_bound_is_not():
    """The sign of det J keeps to plus on every point, for mu and A that reach the bound; phi = x_1^2 turns it over."""

    def least(mu, a):
        x = uniform_sphere_sample(jax.random.key(0), 3, (2000,))
        x = jnp.concatenate([x, jnp.eye(3), -jnp.eye(3)])
        gradient = lambda x: sphere.polynomial_gradient(x, mu, a)
        moved = jax.vmap(jax.jacfwd(lambda x: sphere.exponential_map(x, gradient)[0]))
        y = sphere.exponential_map(x, gradient)[0]
        return jnp.linalg.det(
            moved(x) @ (jnp.eye(3) - x[:, :, None] * x[:, None]) + y[..., None] * x[:, None]
        ).min()

    mu, a = quadratic(0.999)(jax.random.key(3), 2)
    axes = jnp.diag(jnp.array([1.0, 0.0, 0.0]))
    mu = jnp.concatenate([mu, jnp.zeros((3, 3))])
    a = jnp.concatenate([a, 0.4995 * axes[None], -0.4995 * axes[None], 0.99 * axes[None]])
    *inside, outside = jax.jit(jax.vmap(least))(mu, a)
    assert min(inside) > 0 and min(inside) < 0.01 and outside < 0


def test_float32_inverse_of_two_hundred_hard_exponential_maps():
    """Strengths that sum to .99, concentrations up to about 100: the image of the inverse is right to 2e-6, no NaN anywhere."""

    @jax.jit
    @jax.vmap
    def errors(seed, steepness):
        key = jax.random.fold_in(jax.random.key(5), seed)
        p = radial(0.99, steepness)(key, 2)
        y = uniform_sphere_sample(jax.random.fold_in(key, 1), 3, (4, BATCH))
        forward, inverse, *_ = CURVED["radial"]

        def total(y, p):
            result = inverse(y, *p)
            return sum(jnp.sum(v) for v in result), result

        (_, (x, log_det)), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(y, p)
        finite = [jnp.isfinite(v).all() for v in jax.tree.leaves((x, log_det, slopes))]
        return jnp.abs(forward(x, *p)[0] - y).max(), jnp.stack(finite).all()

    for steepness in (0.3, 5.0, 30.0):
        error, finite = errors(jnp.arange(200), jnp.full(200, steepness))
        assert error.dtype == jnp.float32 and finite.all() and float(error.max()) < 2e-6


def test_inverse_where_the_slope_is_one_in_ten_thousand(dtype):
    """Newton's first step from beside the centre would go round the sphere; the image is right to rounding."""
    centre = jnp.array([[0.0, 0.6, 0.8]], dtype)
    near = uniform_sphere_sample(jax.random.key(1), 3, (500,)).astype(dtype)
    y = jnp.concatenate([near, to_sphere(centre + 0.01 * near)])

    @jax.jit
    def image(y, beta):
        pull = lambda x: sphere.radial_gradient(x, centre, jnp.array([0.9999], dtype), beta[None])
        return sphere.exponential_map(sphere.exponential_map_inverse(y, pull)[0], pull)[0]

    for beta in (0.1, 5.0, 300.0):
        np.testing.assert_allclose(image(y, jnp.asarray(beta, dtype)), y, atol=20 * jnp.finfo(dtype).eps)


@CURVES
def test_float32_round_trip_on_the_sphere(name):
    forward, inverse, _, p = sphere_setting(name)
    x = uniform_sphere_sample(jax.random.key(3), CURVED[name][2] + 1, (2000, BATCH))
    y, log_det = jax.jit(forward)(x, *p)
    back, log_det_back = jax.jit(inverse)(y, *p)
    assert y.shape == x.shape and log_det.shape == x.shape[:-1] and y.dtype == log_det.dtype == jnp.float32
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-3)


@checks(sphere.to_cylinder, sphere.from_cylinder)
@pytest.mark.usefixtures("x64")
def test_cylinder_has_the_volume_of_the_sphere_and_finite_slopes_at_the_poles():
    """In D dimensions the area is the integral of (1 - h^2)^(D/2 - 1) times the area of the side's sphere."""
    height, weight = quadrature(-1, 1, 400)
    for dim in (2, 3, 5):
        side = jnp.zeros((400, dim)).at[:, 0].set(1.0)
        x, log_det = sphere.from_cylinder(jnp.asarray(height), side)
        (again, same), back = sphere.to_cylinder(x)
        np.testing.assert_allclose(again, height, atol=1e-15)
        np.testing.assert_allclose(same, side, atol=1e-15)
        np.testing.assert_allclose(back, -log_det, atol=1e-9)
        ratio = jnp.exp(uniform_sphere_log_prob(side[0]) - uniform_sphere_log_prob(x[0]))
        # the root at the ends for D = 3 costs the rule its speed
        np.testing.assert_allclose(weight @ np.exp(log_det), ratio, rtol=1e-6)
        pole = jnp.zeros(dim + 1).at[-1].set(1.0)

        @jax.jit
        @jax.value_and_grad
        def there_and_back(x):
            (height, side), log_det = sphere.to_cylinder(x)
            y, log_det_back = sphere.from_cylinder(height, side)
            return jnp.sum(y) + log_det + 2 * log_det_back

        for sign in (1, -1):
            value, slope = there_and_back(sign * pole)
            assert np.isfinite(value) and np.isfinite(slope).all()
    with pytest.raises(ValueError, match=r"at least 3 coordinates, got shape \(2,\)"):
        sphere.to_cylinder(jnp.ones(2))


def test_the_series_near_zero_have_two_right_derivatives(x64):
    """Log-determinants and their gradients take them: cos r and sin(r) / r as functions of r^2, by all their terms that count."""
    for square in (0.0, 1e-6, 9.9e-5, 1.01e-4):
        for place, odd in ((0, 0), (1, 1)):
            terms = [
                (-1) ** k * square ** max(k - 2, 0) * k * (k - 1) / math.factorial(2 * k + odd)
                for k in range(2, 7)
            ]
            function = lambda s, place=place: sphere._cos_sinc(s)[place]
            found = jax.grad(jax.grad(function))(square)
            # the series leaves out what is below 4e-11 of it; beyond, quotients of the root lose most of 16 digits
            assert float(found) == pytest.approx(sum(terms), rel=1e-9 if square < 1e-4 else 1e-6)
            exact = math.cos(math.sqrt(square)) if not odd else np.sinc(math.sqrt(square) / math.pi)
            assert float(function(square)) == pytest.approx(exact, rel=1e-15)
