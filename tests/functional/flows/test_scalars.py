"""Bijections of a number or an angle: derivative against autodiff, round trip, gradients, density, edges, hard parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.functional.flows import circle, constraints, monotonic, spline
from tests.functional.common import central_difference, checks

BINS, PARTS, HIDDEN, BOUND = 6, 3, 4, 3.0


def linear_knots(widths, heights, slopes):
    return spline.spline_knots(widths, heights, spline.linear_tails(slopes), -BOUND, BOUND)


def circular_knots(widths, heights, slopes):
    return spline.spline_knots(widths, heights, spline.circular_slopes(slopes), -jnp.pi, jnp.pi)


def network(u, b, v):
    """A positive function of each number; zero parameters give one."""

    def g(t):
        hidden = jnp.tanh(u[..., None, :] * t[..., None] + b[..., None, :])
        return constraints.positive(jnp.sum(v[..., None, :] * hidden, axis=-1))

    return g


def on_line(function):
    return lambda z, u, b, v, offset: function(z, network(u, b, v), offset)


def with_knots(function, knots):
    return lambda z, *free: function(z, knots(*free))


def with_centre(function):
    return lambda theta, w, *log_weights: function(theta, constraints.moebius_centre(w), *log_weights)


def with_alpha(function):
    return lambda theta, a, *others: function(theta, constraints.positive(a), *others)


# Shapes of the free numbers behind the batch; forward and inverse, from free numbers.
LINE = {
    "spline": (
        ((BINS,), (BINS,), (BINS - 1,)),
        with_knots(spline.rational_quadratic, linear_knots),
        with_knots(spline.rational_quadratic_inverse, linear_knots),
    ),
    "monotonic": (
        ((HIDDEN,), (HIDDEN,), (HIDDEN,), ()),
        on_line(monotonic.monotonic),
        on_line(monotonic.monotonic_inverse),
    ),
}
CIRCLE = {
    "circular spline": (
        ((BINS,), (BINS,), (BINS,)),
        with_knots(spline.rational_quadratic, circular_knots),
        with_knots(spline.rational_quadratic_inverse, circular_knots),
    ),
    "moebius": (((2,),), with_centre(circle.moebius), with_centre(circle.moebius_inverse)),
    "moebius_mixture": (
        ((PARTS, 2), (PARTS,)),
        with_centre(circle.moebius_mixture),
        with_centre(circle.moebius_mixture_inverse),
    ),
    "projection": (
        ((), ()),
        with_alpha(circle.non_compact_projection),
        with_alpha(circle.non_compact_projection_inverse),
    ),
    "projection_mixture": (
        ((PARTS,), (PARTS,), (PARTS,)),
        with_alpha(circle.non_compact_projection_mixture),
        with_alpha(circle.non_compact_projection_mixture_inverse),
    ),
    "rotation": (((),), circle.rotation, lambda phi, shift: circle.rotation(phi, -shift)),
}
FLOWS = LINE | CIRCLE
EACH = pytest.mark.parametrize("name", FLOWS)
EACH_ON_CIRCLE = pytest.mark.parametrize("name", CIRCLE)


def draw(name, key, batch, scale=1.0):
    """Points (on the line also beyond the ends of the spline), free numbers."""
    keys = jax.random.split(key, 1 + len(FLOWS[name][0]))
    if name in CIRCLE:
        z = jax.random.uniform(keys[0], batch, minval=-np.pi, maxval=np.pi)
    else:
        z = 2 * jax.random.normal(keys[0], batch)
    return z, [
        scale * jax.random.normal(k, (*batch, *s)) for k, s in zip(keys[1:], FLOWS[name][0], strict=True)
    ]


def apart(name, a, b):
    """Difference; on the circle, the short way round."""
    return circle.wrap(a - b) if name in CIRCLE else a - b


def derivative(function, z):
    return jax.jvp(function, (z,), (jnp.ones_like(z),))[1]


@checks(
    spline.rational_quadratic,
    spline.rational_quadratic_inverse,
    monotonic.monotonic_inverse,
    circle.moebius,
    circle.moebius_inverse,
    circle.moebius_mixture,
    circle.moebius_mixture_inverse,
    circle.non_compact_projection,
    circle.non_compact_projection_inverse,
    circle.non_compact_projection_mixture,
    circle.non_compact_projection_mixture_inverse,
)
@EACH
@pytest.mark.usefixtures("x64")
def test_log_det_is_that_of_autodiff_and_the_inverse_undoes_the_map(name):
    """Slopes from 1e-3 to 1e3 magnify the rounding of a round trip: measured below 1e-11."""
    _, forward, inverse = FLOWS[name]
    z, p = draw(name, jax.random.key(0), (200,))

    @jax.jit
    def everything(z, p):
        y, log_det = forward(z, *p)
        back, log_det_back = inverse(y, *p)
        slopes = derivative(lambda z: forward(z, *p)[0], z), derivative(lambda y: inverse(y, *p)[0], y)
        return (back, forward(inverse(z, *p)[0], *p)[0]), (log_det, log_det_back), slopes

    values, log_dets, slopes = everything(z, p)
    for value in values:
        np.testing.assert_allclose(apart(name, value, z), 0.0, atol=1e-9)
    for log_det, slope in zip(log_dets, slopes, strict=True):
        assert log_det.shape == (200,) and (slope > 0).all()
        np.testing.assert_allclose(log_det, jnp.log(slope), atol=1e-9)
    np.testing.assert_allclose(log_dets[0], -log_dets[1], atol=1e-9)


@EACH
def test_each_number_has_its_own_parameters_and_samples_may_lead(name):
    """The same as one at a time, to float32 rounding times slopes of order ten."""
    _, forward, inverse = FLOWS[name]
    z, p = draw(name, jax.random.key(1), (2, 3), 0.5)
    many = jnp.stack([z, 0.9 * z])

    def both(z, p):
        return forward(z, *p), inverse(z, *p)

    alone = jax.vmap(jax.vmap(jax.vmap(both)), (0, None))
    for (y, log_det), (one, log_det_one) in zip(jax.jit(both)(many, p), jax.jit(alone)(many, p), strict=True):
        assert y.shape == log_det.shape == (2, 2, 3)
        np.testing.assert_allclose(y, one, atol=1e-5)
        np.testing.assert_allclose(log_det, log_det_one, atol=1e-5)


@EACH
@pytest.mark.usefixtures("x64")
def test_gradients_through_the_inverse_equal_central_differences(name):
    """For the value and its parameters, in reverse and in forward mode; step 1e-5, slopes of order one: 1e-7."""
    _, forward, inverse = FLOWS[name]
    z, p = draw(name, jax.random.key(3), (3,), 0.5)
    tree = [forward(z, *p)[0], *p]

    @jax.jit
    def loss(y, *p):
        z, log_det = inverse(y, *p)
        return jnp.sum(jnp.sin(z) * jnp.arange(1.0, 4.0)) + jnp.sum(jnp.square(log_det + 1))

    gradients = jax.jit(jax.grad(loss, argnums=tuple(range(len(tree)))))(*tree)
    for i, gradient in enumerate(gradients):
        numeric = central_difference(lambda v, i=i: loss(*tree[:i], v, *tree[i + 1 :]), tree[i])
        np.testing.assert_allclose(gradient, numeric, atol=1e-7, rtol=1e-6)
    along = jax.jit(lambda tree: jax.jvp(loss, tree, jax.tree.map(jnp.ones_like, tree))[1])(tree)
    assert float(along) == pytest.approx(sum(float(g.sum()) for g in gradients), abs=1e-10)


@EACH
@pytest.mark.usefixtures("x64")
def test_the_pushed_density_integrates_to_one(name):
    """The uniform law on the circle, the normal law on the line; trapezoid rule.  Smooth densities are exact
    to rounding; kinks at the knots leave h^2 times the jumps of the derivative, of order 1e-6 for the h taken."""
    _, forward, inverse = FLOWS[name]
    _, p = draw(name, jax.random.key(4), ())
    if name in CIRCLE:
        ends, log_base = (-np.pi, np.pi), lambda z: -jnp.log(2 * jnp.pi) + 0 * z
    else:
        ends, log_base = jax.jit(forward)(jnp.array([-8.5, 8.5]), *p)[0], jax.scipy.stats.norm.logpdf
    y = jnp.linspace(*ends, 20001 if "spline" in name else 2001)

    @jax.jit
    def density(y, p):
        z, log_det = inverse(y, *p)
        return jnp.exp(log_base(z) + log_det)

    values = density(y, p)
    assert np.ptp(values) > 1e-3 or name == "rotation"
    assert np.trapezoid(values, y) == pytest.approx(1.0, abs=1e-5)


@checks(spline.circular_slopes)
@EACH_ON_CIRCLE
@pytest.mark.usefixtures("x64")
def test_value_and_density_cross_the_seam_without_a_jump(name):
    """Both directions, at pi +- 1e-9: slopes and their derivatives are of order 1e3 at most."""
    _, p = draw(name, jax.random.key(5), (100,))
    for function in FLOWS[name][1:]:
        sides = [jax.jit(function)(jnp.full(100, at), *p) for at in (np.pi - 1e-9, -np.pi + 1e-9)]
        for value, _ in sides:
            assert (jnp.abs(value) <= np.pi).all()
        np.testing.assert_allclose(circle.wrap(sides[0][0] - sides[1][0]), 0.0, atol=1e-5)
        np.testing.assert_allclose(sides[0][1], sides[1][1], atol=1e-5)
        if name != "circular spline":  # of which an angle outside [-pi, pi] is no business
            turned = jax.jit(function)(jnp.full(100, 3 * np.pi - 1e-9), *p)
            np.testing.assert_allclose(circle.wrap(turned[0] - sides[0][0]), 0.0, atol=1e-9)


@EACH
def test_float32_on_two_hundred_batches_of_each_hardness(name):
    """Rounding moves a point at most 1e-5 off the curve, across or up, both ways (measured 4e-6, at angles of 30): where the
    curve is flat z cannot be had back, where it is steep y cannot.  Where slopes are of order one, z itself comes back to 1e-5
    (measured 2e-6).  Nothing leaves the domain, and no NaN, gradients included.

    The integral is asked for what its 32 nodes resolve only: for free numbers up to one.
    """
    _, forward, inverse = FLOWS[name]
    bound = {"spline": BOUND, "monotonic": np.inf}.get(name, np.float32(np.pi))

    @jax.jit
    @jax.vmap
    def errors(seed, scale):
        z, p = draw(name, jax.random.fold_in(jax.random.key(7), seed), (8,), scale)
        z = z.at[:4].set(jnp.clip(jnp.array([-bound, bound, 0.0, -bound]), -9, 9))
        worst, plain, finite, inside = 0.0, 0.0, [], []
        for there, back in ((forward, inverse), (inverse, forward)):
            y, _ = there(z, *p)
            again, _ = back(y, *p)
            image, _ = there(again, *p)
            across, up = jnp.abs(apart(name, again, z)), jnp.abs(apart(name, image, y))
            worst = jnp.maximum(worst, jnp.minimum(across, up).max())
            plain = jnp.maximum(plain, across.max())
            outputs, slopes = jax.value_and_grad(lambda z, p, f=there: sum(map(jnp.sum, f(z, *p))), (0, 1))(
                z, p
            )
            finite += [jnp.isfinite(v).all() for v in jax.tree.leaves((y, again, outputs, slopes))]
            inside.append(((jnp.abs(y) <= bound) | (jnp.abs(z) > bound)).all())
        return worst, plain, jnp.stack(finite).all(), jnp.stack(inside).all()

    seeds = jnp.arange(200)
    for scale in (0.3, 1.0) if name == "monotonic" else (0.3, 1.0, 10.0, 30.0):
        worst, plain, finite, inside = errors(seeds, jnp.full(200, scale))
        assert worst.dtype == jnp.float32 and finite.all() and inside.all()
        assert float(worst.max()) < 1e-5 and (scale > 0.3 or float(plain.max()) < 1e-5)


@checks(spline.linear_tails)
@pytest.mark.parametrize("name", ["spline", "circular spline"])
def test_spline_at_its_ends_and_beyond(name, dtype):
    """The ends stay, to the last digit; beyond them the identity, without NaN; the slope is continuous for linear tails."""
    _, forward, inverse = FLOWS[name]
    bound = np.asarray(BOUND if name == "spline" else np.pi, dtype)
    beyond = np.nextafter(bound, bound + 1)
    z = np.array([bound, np.nextafter(bound, 0 * bound), beyond, 10 * bound, 1e30], dtype)
    z = jnp.concatenate([z, -z])
    _, p = draw(name, jax.random.key(8), ())
    p = [v.astype(dtype) for v in p]
    for function in (forward, inverse):
        y, log_det = jax.jit(function)(z, *p)
        out = jnp.abs(z) > bound
        np.testing.assert_array_equal(y[out], z[out])
        np.testing.assert_array_equal(log_det[out], 0.0)
        np.testing.assert_array_equal(y[jnp.abs(z) == bound], z[jnp.abs(z) == bound])
        if name == "spline":
            np.testing.assert_allclose(log_det, 0.0, atol=500 * jnp.finfo(dtype).eps)
        jacobians = jax.jit(jax.jacrev(function, tuple(range(1 + len(p)))))(z, *p)
        assert all(np.isfinite(v).all() for v in jax.tree.leaves(jacobians))
        np.testing.assert_allclose(jnp.diag(jacobians[0][0]), jnp.exp(log_det), rtol=1e-4)


@EACH
@pytest.mark.usefixtures("x64")
def test_zeros_give_the_identity(name):
    _, forward, inverse = FLOWS[name]
    z, p = draw(name, jax.random.key(9), (50,), 0.0)
    for function in (forward, inverse):
        y, log_det = jax.jit(function)(z, *p)
        np.testing.assert_allclose(y, z, atol=1e-13)
        np.testing.assert_allclose(log_det, 0.0, atol=1e-13)


@checks(spline.spline_knots, spline.rational_quadratic)
@pytest.mark.usefixtures("x64")
def test_spline_is_the_curve_of_the_paper_through_its_knots():
    """Durkan et al. 2019, eq. 4, in NumPy, one number at a time; values and slopes at the knots."""
    z, p = draw("spline", jax.random.key(10), (40,))
    knots = linear_knots(*p)
    y = jax.jit(spline.rational_quadratic)(z, knots)[0]
    for i, at in enumerate(np.asarray(z)):
        x, f, d = (np.asarray(v[i]) for v in knots)
        assert x[0] == f[0] == -BOUND and x[-1] == f[-1] == BOUND and d[0] == pytest.approx(1.0, abs=1e-15)
        assert min(np.diff(x).min(), np.diff(f).min()) > 0.99e-3 * 2 * BOUND and d.min() > 1e-3
        k = np.searchsorted(x, at) - 1
        if 0 <= k < BINS:
            s, xi = (f[k + 1] - f[k]) / (x[k + 1] - x[k]), (at - x[k]) / (x[k + 1] - x[k])
            top = (f[k + 1] - f[k]) * (s * xi**2 + d[k] * xi * (1 - xi))
            at = f[k] + top / (s + (d[k + 1] + d[k] - 2 * s) * xi * (1 - xi))
        assert float(y[i]) == pytest.approx(at, abs=1e-12)
    one = jax.tree.map(lambda v: v[0], knots)
    values, log_slopes = spline.rational_quadratic(one.x, one)
    np.testing.assert_allclose(values, one.y, atol=1e-14)
    np.testing.assert_allclose(jnp.exp(log_slopes), one.slopes, rtol=1e-12)


def test_numbers_of_bins_and_slopes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r"needs K widths, K heights, K \+ 1 slopes, got 4, 4, 3; pad"):
        spline.spline_knots(jnp.zeros(4), jnp.zeros(4), jnp.zeros(3), -1.0, 1.0)


@checks(circle.moebius)
@pytest.mark.usefixtures("x64")
def test_moebius_is_that_of_the_paper():
    """h_w of the paper on unit vectors, then turned so that (1, 0) stays; a mixture of one is its part."""
    theta, (w,) = draw("moebius", jax.random.key(11), (30,))
    w = np.asarray(constraints.moebius_centre(w))

    def h(z):
        offset = z - w
        return (1 - (w**2).sum(-1)) / (offset**2).sum(-1) * (offset @ [1, 1j]) - w @ [1, 1j]

    z = np.stack([np.cos(theta), np.sin(theta)], axis=-1)
    expected = np.angle(h(z) / h(np.array([1.0, 0.0])))
    found = jax.jit(circle.moebius)(theta, w)
    np.testing.assert_allclose(found[0], expected, atol=1e-13)
    for mine, one in zip(circle.moebius_mixture(theta, w[:, None], jnp.zeros((30, 1))), found, strict=True):
        np.testing.assert_allclose(mine, one, atol=1e-13)


@checks(circle.non_compact_projection)
@pytest.mark.usefixtures("x64")
def test_moebius_and_projection_push_the_uniform_law_to_the_wrapped_cauchy_law():
    """For a centre on the axis they are the same map; otherwise the law is turned."""
    y = jnp.linspace(-3, 3, 50)
    for alpha in (0.2, 0.7):
        rho = (1 - alpha) / (1 + alpha)
        law = scipy.stats.wrapcauchy(rho).pdf(np.asarray(y) % (2 * np.pi))
        z, log_det = circle.non_compact_projection_inverse(y, alpha, 0.0)
        np.testing.assert_allclose(jnp.exp(log_det) / (2 * np.pi), law, rtol=1e-12)
        np.testing.assert_allclose(jnp.tan(circle.non_compact_projection(y, alpha, 0.7)[0] / 2),
                                   alpha * jnp.tan(y / 2) + 0.7, rtol=1e-10)  # fmt: skip
        same, log_det_same = circle.moebius_inverse(y, jnp.array([-rho, 0.0]))
        np.testing.assert_allclose(same, z, atol=1e-13)
        np.testing.assert_allclose(log_det_same, log_det, atol=1e-13)
        w = rho * np.exp(2.1j)
        mode = np.angle(-w) - 2 * np.angle(1 - w)
        law = scipy.stats.wrapcauchy(rho).pdf((np.asarray(y) - mode) % (2 * np.pi))
        turned = circle.moebius_inverse(y, jnp.array([w.real, w.imag]))[1]
        np.testing.assert_allclose(jnp.exp(turned) / (2 * np.pi), law, rtol=1e-12)


@checks(circle.wrap, circle.rotation)
def test_angles_are_wrapped_and_rotated():
    theta = np.float32([-3.0, 0.1, 3.1])
    np.testing.assert_array_equal(circle.wrap(theta), theta)
    np.testing.assert_allclose(circle.wrap(theta + 6 * np.pi), theta, atol=4e-6)  # half an ulp of 20
    turned, log_det = circle.rotation(theta, 1.0)
    np.testing.assert_allclose(turned, [-2.0, 1.1, 4.1 - 2 * np.pi], atol=1e-6)
    assert not log_det.any()
