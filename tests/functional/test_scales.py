"""Vectors of any length, data of any size and offset, angles of any number of turns, samples of any number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import autoencoding, divergences, hyperbolic, linear_gaussian, spherical
from dlvm_jax.functional.diffusion import score_matching
from dlvm_jax.functional.flows import circle, constraints, image, orthogonal, sphere
from dlvm_jax.functional.linear_gaussian import LinearGaussian
from dlvm_jax.models import scalars
from tests.functional.test_kinds import is_jaxpr

RNG = np.random.RandomState(0)
V, Z = (jnp.asarray(RNG.randn(3), jnp.float32) for _ in range(2))
SIZES = jnp.array([1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30], jnp.float32)
DIRECTIONS = {
    "to_sphere": spherical.to_sphere,
    "householder": lambda v: orthogonal.householder(Z, v)[0],
    "householder_product": lambda v: orthogonal.householder_product(Z, jnp.stack([v, v + v[::-1]]))[0],
    "orthonormal": lambda v: orthogonal.orthonormal(jnp.stack([v, v[::-1]], 1)),
    "to_cylinder": lambda v: sphere.to_cylinder(jnp.append(v[:2], 0.5))[0][1],
}


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in DIRECTIONS])
def test_a_direction_does_not_depend_on_the_length(name):
    """Nor does the gradient, but for the length itself: f(s v) = f(v), so that s f'(s v) = f'(v)."""
    function = DIRECTIONS[name]
    value, slope = jax.jit(lambda v: (function(v), jax.jacrev(function)(v)))(V)
    values, slopes = jax.jit(jax.vmap(lambda s: (function(s * V), s * jax.jacrev(function)(s * V))))(SIZES)
    np.testing.assert_allclose(values, jnp.broadcast_to(value, values.shape), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes, jnp.broadcast_to(slope, slopes.shape), rtol=1e-4, atol=1e-5)


def test_a_planar_flow_of_any_length_of_w_can_be_inverted():
    """w^T u = m(s w^T u / s): the same for s w and u / s, and finite with a gradient for s w and u."""
    u_hat = jax.jit(jax.vmap(lambda s: s * constraints.planar_u_hat(s * V, Z / s)))(SIZES)
    expected = np.broadcast_to(constraints.planar_u_hat(V, Z), u_hat.shape)
    np.testing.assert_allclose(u_hat, expected, rtol=1e-5)
    total = lambda s, u: constraints.planar_u_hat(s * V, u).sum()
    down = -Z * jnp.sign(Z @ V)  # against w, where u is moved
    slopes = jax.jit(jax.vmap(jax.grad(total, 1), (0, None)))(SIZES, down)
    assert np.isfinite(slopes).all()
    far = constraints.planar_u_hat(1e30 * V, down)
    np.testing.assert_allclose(far, down - V * (V @ down) / (V @ V), rtol=1e-4, atol=1e-6)


def test_the_centre_of_a_moebius_transformation_keeps_its_direction():
    w = jax.vmap(lambda s: constraints.moebius_centre(s * V[:2]))(SIZES)
    length = np.linalg.norm(V[:2])
    expected = 0.99 * SIZES * length / (1 + SIZES * length)
    np.testing.assert_allclose(np.linalg.norm(np.float64(w), axis=1), expected, rtol=1e-5)


def test_geodesics_of_any_length_end_in_their_direction():
    ends = jax.vmap(lambda s: hyperbolic.exp_map(jnp.zeros(3), s * V, 1.0))(SIZES)
    cosine = spherical.to_sphere(ends) @ spherical.to_sphere(V)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)
    near = hyperbolic.distance(jnp.zeros(3), 1e-30 * V, 1.0)
    np.testing.assert_allclose(near * 1e30, 2 * jnp.linalg.norm(V), rtol=1e-5)


ANGLES = jnp.linspace(-3.0, 3.0, 7)
CENTRES, WEIGHTS = jnp.array([[0.5, -0.3], [0.0, 0.6]]), jnp.array([0.3, -0.2])
PAIRS = {
    "rotation": lambda t: circle.rotation(t, 1.0),
    "moebius": lambda t: circle.moebius(t, CENTRES[0]),
    "moebius_inverse": lambda t: circle.moebius_inverse(t, CENTRES[0]),
    "moebius_mixture": lambda t: circle.moebius_mixture(t, CENTRES, WEIGHTS),
    "moebius_mixture_inverse": lambda t: circle.moebius_mixture_inverse(t, CENTRES, WEIGHTS),
    "projection": lambda t: circle.non_compact_projection(t, 0.3, 1.5),
    "projection_inverse": lambda t: circle.non_compact_projection_inverse(t, 0.3, 1.5),
    "projections": lambda t: circle.non_compact_projection_mixture(
        t, CENTRES[:, 1] + 1, CENTRES[:, 0], WEIGHTS
    ),
    "projections_inverse": lambda t: circle.non_compact_projection_mixture_inverse(
        t, CENTRES[:, 1] + 1, CENTRES[:, 0], WEIGHTS
    ),
}
SPLINE = scalars.circular_spline(4)
RAW = jnp.asarray(RNG.randn(SPLINE.width), jnp.float32)
PAIRS["spline"] = lambda t: SPLINE.forward({}, t, RAW)
PAIRS["spline_inverse"] = lambda t: SPLINE.inverse({}, t, RAW)


def test_maps_of_the_circle_do_not_count_turns():
    """Three turns to either side, with angles right to some 1e-6 there; both maps return angles of one turn."""

    def everything(turn):
        return {name: function(ANGLES + turn) for name, function in PAIRS.items()}

    three = 6 * np.pi
    first, others = jax.jit(everything)(0.0), [jax.jit(everything)(turn) for turn in (three, -three)]
    for other in others:
        for name, (angle, log_det) in first.items():
            assert (jnp.abs(other[name][0]) <= jnp.pi + 1e-5).all(), name
            np.testing.assert_allclose(circle.wrap(other[name][0] - angle), 0, atol=2e-5, err_msg=name)
            np.testing.assert_allclose(other[name][1], log_det, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("levels", [65_536, 65_535, 40_000, 257])
def test_dequantised_levels_stay_in_their_cells(levels):
    """The widest noise: all that a generator of 16 bits can give, by the ends of its range."""
    x = jnp.concatenate([jnp.arange(200), jnp.arange(levels - 20_000 if levels > 20_000 else 0, levels)])
    for seed in range(3):
        v, _ = image.dequantise(jax.random.key(seed), x[:, None], levels, event_ndim=1)
        assert (v < 1).all()
        np.testing.assert_array_equal(np.floor(np.float64(v[:, 0]) * levels), x)
        np.testing.assert_array_equal(jnp.floor(v[:, 0] * levels), x)


def graded(count, dim):
    """Deviations of 1000, 0.8 and 0.5 along three axes, and noise of 0.15."""
    r = np.random.RandomState(0)
    axes = np.linalg.qr(r.randn(dim, 3))[0] * [1e3, 0.8, 0.5]
    return np.float32(r.randn(count, 3) @ axes.T + 0.15 * r.randn(count, dim))


def test_components_of_any_size_are_reconstructed():
    """Against the singular value decomposition in float64; one of three components was dropped, an error of 4 %."""
    x = graded(400, 784)
    model = linear_gaussian.ppca_fit(x, 3)
    axes = np.linalg.svd(np.float64(x) - x.mean(0), full_matrices=False)[2][:3]
    centred = np.float64(x) - x.mean(0)
    best = np.square(centred - centred @ axes.T @ axes).sum(1).mean()
    error = np.square(np.float64(x) - linear_gaussian.reconstruct(model, x)).sum(1).mean()
    np.testing.assert_allclose(error, best, rtol=1e-3)
    twice = model._replace(w=jnp.concatenate([model.w, 2 * model.w[:, :1]], axis=1))  # one axis twice
    again = linear_gaussian.reconstruct(twice, x)
    np.testing.assert_allclose(again, linear_gaussian.reconstruct(model, x), atol=0.01)


@pytest.mark.parametrize("size", [1e18, 1e-22])
def test_fits_do_not_depend_on_the_unit(size):
    r = np.random.RandomState(1)
    x = np.float32(r.randn(100, 2) @ r.randn(2, 6) + 0.5 * r.randn(100, 6) + 3)
    size = np.float32(size)
    unit, model = linear_gaussian.ppca_fit(x, 2), linear_gaussian.ppca_fit(size * x, 2)
    np.testing.assert_allclose(jnp.abs(model.w / size), jnp.abs(unit.w), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.log_std - np.log(size), unit.log_std, atol=1e-4)
    start = LinearGaussian(jnp.asarray(r.randn(6, 2), jnp.float32), jnp.zeros(6), jnp.float32(0))
    scaled = LinearGaussian(size * start.w, size * start.mean, jnp.log(size))
    seen = jnp.ones(x.shape, bool).at[0, 0].set(False)
    for mask in ((), (seen,)):
        step = jax.jit(linear_gaussian.ppca_em_step)
        one, other = step(start, x, *mask), step(scaled, size * x, *mask)
        np.testing.assert_allclose(other.w / size, one.w, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(other.mean / size, one.mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(other.log_std - np.log(size), one.log_std, atol=1e-4)


@pytest.mark.parametrize("missing", [True, False])
def test_em_on_data_far_from_zero(missing):
    """Deviations of about one, and an offset of 5000, which float32 holds to 2e-4: as without it from the mean, and from a
    mean of zero as in double precision."""
    r = np.random.RandomState(1)
    x = r.randn(300, 1) * np.array([[1.0, -0.5, 0.8, 0.3]]) + 0.3 * r.randn(300, 4)
    mask = (r.rand(300, 4) < 0.8,) if missing else ()

    def run(offset, mean, dtype, steps):
        model = LinearGaussian(*(jnp.asarray(a, dtype) for a in (np.ones((4, 1)), np.full(4, mean), 0.0)))
        step = jax.jit(linear_gaussian.ppca_em_step)
        for _ in range(steps):
            model = step(model, jnp.asarray(x + offset, dtype), *mask)
        return model

    near, far = run(0.0, 0.0, jnp.float32, 20), run(5000.0, 5000.0, jnp.float32, 20)
    np.testing.assert_allclose(far.w, near.w, atol=0.002)
    np.testing.assert_allclose(far.mean - 5000, near.mean, atol=0.002)
    np.testing.assert_allclose(far.log_std, near.log_std, atol=0.002)
    single = run(5000.0, 0.0, jnp.float32, 3)
    with jax.enable_x64(True):
        double = run(5000.0, 0.0, jnp.float64, 3)
    for one, other in zip(single, double, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_data_are_noiseless_only_up_to_rounding():
    """Noise of 1.5e-4 of the largest deviation is found; exact data of three dimensions, in float32, are refused."""
    noisy = linear_gaussian.ppca_fit(graded(2000, 8), 3)
    np.testing.assert_allclose(jnp.exp(noisy.log_std), 0.15, rtol=0.02)
    r = np.random.RandomState(0)
    for count, dim, offset in ((400, 50, 0.0), (50, 400, 0.0), (2000, 20, 100.0)):
        exact = np.float32(r.randn(count, 3) @ r.randn(3, dim) + offset)
        with pytest.raises(ValueError, match="without noise"):
            linear_gaussian.ppca_fit(exact, 3)


def largest(function, *shapes):
    """How many numbers the largest array on the way has."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def of(jaxpr):
        sizes = [v.aval.size for equation in jaxpr.eqns for v in equation.outvars]
        inner = [jax.tree.leaves(list(e.params.values()), is_leaf=is_jaxpr) for e in jaxpr.eqns]
        return max(
            [*sizes, *(of(getattr(j, "jaxpr", j)) for leaves in inner for j in leaves if is_jaxpr(j))] or [0]
        )

    return of(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_the_discrepancy_of_many_samples_takes_memory_for_pairs():
    """Not N^2 D numbers, 3.2 GB here; also for its gradient."""
    n, d = 4000, 50
    total = lambda x, y: divergences.mmd(x, y, lambda a, b: divergences.rbf_kernel(a, b, 1.0))
    for function in (total, jax.grad(total)):
        assert largest(function, (n, d), (n, d)) <= n * n


def test_blocks_give_what_the_whole_gives(monkeypatch):
    x, y = jnp.asarray(RNG.randn(7, 3)), jnp.asarray(RNG.randn(5, 3))
    run = lambda: jax.jacrev(lambda x: divergences.rbf_kernel(x, y, 1.0))(x)
    whole = run()
    monkeypatch.setattr(divergences, "_BLOCK", 30)
    np.testing.assert_allclose(run(), whole, rtol=1e-5)
    np.testing.assert_allclose(
        divergences.rbf_kernel(x, y, 1.0), np.exp(-0.5 * ((x[:, None] - y) ** 2).sum(-1)), rtol=1e-5
    )


def test_em_with_missing_values_takes_memory_for_blocks_of_rows():
    """60,000 images with 20 latent variables: not N D M numbers, 3.8 GB each, but N D, N M^2 or some blocks."""
    n, d, m = 60_000, 784, 20

    def step(w, mean, x, observed):
        return linear_gaussian.ppca_em_step(LinearGaussian(w, mean, jnp.zeros(())), x, observed)

    def evidence(w, mean, x, observed):
        model = LinearGaussian(w, mean, jnp.zeros(()))
        return linear_gaussian.log_evidence_observed(model, x, observed).sum()

    for function in (step, evidence, jax.grad(evidence)):
        assert largest(function, (d, m), (d,), (n, d), (n, d)) <= n * d


def test_exact_traces_of_single_examples_take_memory_for_some_directions():
    """64 examples under vmap, and the gradient: not 784 directions of each at once."""

    def trace(x, w):
        field = lambda x: jnp.tanh(jnp.tanh(x @ w) @ w)
        return jax.vmap(lambda x: score_matching.exact_divergence(field, x)[1])(x)

    for function in (trace, jax.grad(lambda x, w: trace(x, w).sum())):
        assert largest(function, (64, 784), (784, 784)) <= 128 * 64 * 784
    x, w = jnp.asarray(RNG.randn(2, 200), jnp.float32), jnp.linspace(0.1, 1, 200)
    inner = jnp.tanh(x * w)
    slope = jnp.square(w) * (1 - jnp.square(inner)) * (1 - jnp.square(jnp.tanh(inner * w)))
    np.testing.assert_allclose(jax.jit(trace)(x, jnp.diag(w)), slope.sum(1), rtol=1e-5)


def test_the_penalty_of_many_code_units_takes_memory_for_some():
    def penalty(x, w):
        return autoencoding.contractive_penalty(lambda x: jnp.tanh(x @ w), x)

    assert largest(penalty, (1000, 784), (784, 500)) <= 2**24
    x, w = jnp.asarray(RNG.randn(3000, 60), jnp.float32), jnp.asarray(0.1 * RNG.randn(60, 100), jnp.float32)
    slopes = jnp.square(1 - jnp.square(jnp.tanh(x @ w))) @ jnp.square(w).sum(0)
    np.testing.assert_allclose(jax.jit(penalty)(x, w), slopes, rtol=1e-5)  # in two blocks


@pytest.mark.parametrize("size", [1e18, 1e-22])
def test_codes_do_not_depend_on_the_unit(size):
    size = np.float32(size)
    r = np.random.RandomState(2)
    model = LinearGaussian(jnp.asarray(r.randn(6, 2), jnp.float32), jnp.zeros(6), jnp.float32(-1))
    scaled = LinearGaussian(size * model.w, model.mean, model.log_std + jnp.log(size))
    x = jnp.asarray(r.randn(5, 6), jnp.float32)
    one, other = linear_gaussian.code(model, x, 0.3), linear_gaussian.code(scaled, size * x, 0.3)
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_allclose(other.rate, one.rate, rtol=1e-3)
    np.testing.assert_allclose(other.reconstruction / size, one.reconstruction, rtol=1e-3, atol=1e-4)
    active = linear_gaussian.posterior_mean_variance
    np.testing.assert_allclose(active(scaled), active(model), rtol=1e-4)
