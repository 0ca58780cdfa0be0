"""Every bijection: the paper's formula, log-determinant against the autodiff Jacobian, round trip, gradients, hard parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from dlvm_jax.functional.flows import autoregressive as ar
from dlvm_jax.functional.flows import constraints, orthogonal
from dlvm_jax.functional.flows.planar import planar, planar_inverse
from dlvm_jax.functional.flows.radial import radial, radial_inverse
from dlvm_jax.functional.flows.sylvester import sylvester, sylvester_inverse
from tests.functional.common import central_difference, checks


def draws(key, scale, *shapes):
    keys = jax.random.split(key, len(shapes))
    return [scale * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def planar_parameters(key, batch, dim, scale):
    w, u, b = draws(key, scale, (*batch, dim), (*batch, dim), batch)
    return w, constraints.planar_u_hat(w, u), b


def radial_parameters(key, batch, dim, scale):
    centre, alpha, beta = draws(key, scale, (*batch, dim), batch, batch)
    alpha = jax.nn.softplus(alpha) + 1e-3
    return centre, alpha, constraints.radial_beta_hat(alpha, beta)


def sylvester_parameters(rank_of):
    def make(key, batch, dim, scale):
        rank = rank_of(dim) or dim
        a, r, r_tilde, b = draws(key, scale, (*batch, dim, rank), *[(*batch, rank, rank)] * 2, (*batch, rank))
        q = orthogonal.orthonormal(a) if rank_of(dim) else None
        return q, constraints.sylvester_triangle(r), constraints.sylvester_triangle(r_tilde), b

    return make


def gated(z, lower, s):
    """A nonlinear conditioner of IAF's form; `lower` is made strictly triangular here."""
    pre = jnp.einsum("...ij,...j->...i", jnp.tril(lower, -1), z, precision="highest")
    return ar.gate(jnp.sin(pre), s + jnp.cos(pre))


FLOWS = {
    "planar": (planar_parameters, planar, planar_inverse),
    "radial": (radial_parameters, radial, radial_inverse),
    "sylvester": (sylvester_parameters(lambda dim: 0), sylvester, sylvester_inverse),
    "sylvester, fewer columns": (
        sylvester_parameters(lambda dim: (dim + 1) // 2),
        sylvester,
        sylvester_inverse,
    ),
    "householder": (
        lambda key, batch, dim, scale: draws(key, scale, (*batch, dim)),
        orthogonal.householder,
        orthogonal.householder,
    ),
    "householder_product": (
        lambda key, batch, dim, scale: draws(key, scale, (*batch, 3, dim)),
        orthogonal.householder_product,
        orthogonal.householder_product_inverse,
    ),
    "autoregressive": (
        lambda key, batch, dim, scale: (
            draws(key, scale / dim, (*batch, dim, dim))[0],
            *draws(
                jax.random.fold_in(key, 5), 1.0, (*batch, dim)
            ),  # its scales have no floor: they stay of order one
        ),
        lambda z, *p: ar.autoregressive(z, lambda z: gated(z, *p)),
        lambda y, *p: ar.autoregressive_inverse(y, lambda z: gated(z, *p)),
    ),
}
ALL = pytest.mark.parametrize("name", FLOWS)


def setting(name, batch=(20,), dim=5, scale=1.0, seed=0):
    parameters, forward, inverse = FLOWS[name]

    @jax.jit
    def draw(key):
        z = 2 * jax.random.normal(jax.random.fold_in(key, 1), (*batch, dim))
        return z, parameters(key, batch, dim, scale)

    return *draw(jax.random.key(seed)), forward, inverse


@checks(
    planar,
    planar_inverse,
    radial,
    radial_inverse,
    sylvester,
    sylvester_inverse,
    ar.autoregressive,
    ar.autoregressive_inverse,
    orthogonal.householder_product_inverse,
)
@ALL
@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.usefixtures("x64")
def test_log_det_is_that_of_the_autodiff_jacobian_and_the_inverse_undoes_the_map(name, dim):
    """The least slope, .01, magnifies rounding by 100 in each coordinate of a chain; measured below 1e-12."""
    z, p, forward, inverse = setting(name, dim=dim)

    @jax.jit
    def everything(z, p):
        y, log_det = forward(z, *p)
        back, log_det_back = inverse(y, *p)
        jacobians = [
            jax.vmap(jax.jacfwd(lambda z, p, f=f: f(z, *p)[0]))(at, p)
            for f, at in ((forward, z), (inverse, y))
        ]
        there = forward(inverse(z, *p)[0], *p)[0]
        return (back, there), (log_det, log_det_back), [jnp.linalg.slogdet(j)[1] for j in jacobians]

    values, log_dets, from_jacobians = everything(z, p)
    for value in values:
        np.testing.assert_allclose(value, z, atol=1e-9)
    for log_det, expected in zip(log_dets, from_jacobians, strict=True):
        assert log_det.shape == (20,)
        np.testing.assert_allclose(log_det, expected, atol=1e-9)
    np.testing.assert_allclose(log_dets[0], -log_dets[1], atol=1e-9)


@checks(planar, radial, sylvester, ar.autoregressive, ar.gate)
def test_the_values_are_those_of_the_papers():
    z, (w, u, b), *_ = setting("planar", ())
    z, w, u = (np.asarray(v) for v in (z, w, u))
    np.testing.assert_allclose(jax.jit(planar)(z, w, u, b)[0], z + u * np.tanh(w @ z + b), rtol=1e-5)
    _, (centre, alpha, beta), *_ = setting("radial", ())
    moved = z + beta / (alpha + np.linalg.norm(z - centre)) * (z - centre)
    np.testing.assert_allclose(jax.jit(radial)(z, centre, alpha, beta)[0], moved, rtol=1e-5)
    _, (q, r, r_tilde, b), *_ = setting("sylvester, fewer columns", ())
    q, r, r_tilde = (np.asarray(v, np.float64) for v in (q, r, r_tilde))
    expected = z + q @ r @ np.tanh(r_tilde @ q.T @ z + b)
    np.testing.assert_allclose(jax.jit(sylvester)(z, q, r, r_tilde, b)[0], expected, rtol=1e-5, atol=1e-6)
    m, s = np.array([2.0, -1.0]), np.array([0.3, -2.0])
    y, log_det = ar.autoregressive(jnp.array([1.0, 4.0]), lambda z: ar.gate(m, s))
    sigma = 1 / (1 + np.exp(-s))
    np.testing.assert_allclose(y, sigma * np.array([1.0, 4.0]) + (1 - sigma) * m, rtol=1e-5)
    assert float(log_det) == pytest.approx(np.log(sigma).sum(), rel=1e-5)


@ALL
def test_each_example_has_its_own_parameters_and_samples_may_lead(name):
    """With a leading sample axis: the same as one example at a time, to float32 rounding."""
    z, p, forward, inverse = setting(name, (4,), 3, 0.5)
    many = jnp.stack([z, z + 1.0])

    def both(z, p):
        return forward(z, *p), inverse(z, *p)

    alone = jax.vmap(jax.vmap(both), (0, None))
    for (y, log_det), (one, log_det_one) in zip(jax.jit(both)(many, p), jax.jit(alone)(many, p), strict=True):
        assert y.shape == (2, 4, 3) and log_det.shape == (2, 4)
        np.testing.assert_allclose(y, one, atol=1e-5)
        np.testing.assert_allclose(log_det, log_det_one, atol=1e-5)


@ALL
@pytest.mark.usefixtures("x64")
def test_gradients_through_the_inverse_equal_central_differences(name):
    """For the value and its parameters, in reverse and in forward mode; step 1e-5, slopes of order one: 1e-7."""
    z, p, forward, inverse = setting(name, (2,), 3, 0.5, seed=3)
    tree = [forward(z, *p)[0], *(v for v in p if v is not None)]
    constant = [None] * (len(p) - len(tree) + 1)

    @jax.jit
    def loss(y, *p):
        z, log_det = inverse(y, *constant, *p)
        return jnp.sum(jnp.sin(z) * jnp.arange(1.0, 4.0)) + jnp.sum(jnp.square(log_det + 1))

    gradients = jax.grad(loss, argnums=tuple(range(len(tree))))(*tree)
    for i, gradient in enumerate(gradients):
        numeric = central_difference(lambda v, i=i: loss(*tree[:i], v, *tree[i + 1 :]), tree[i])
        np.testing.assert_allclose(gradient, numeric, atol=1e-7, rtol=1e-6)
    directions = jax.tree.map(jnp.ones_like, tree)
    along = jax.jvp(loss, tree, directions)[1]
    assert float(along) == pytest.approx(sum(float(g.sum()) for g in gradients), abs=1e-10)


@ALL
def test_float32_on_two_hundred_batches_of_each_hardness(name):
    """Free numbers of size one: the round trip keeps 1e-4 (measured 5e-5, planar, where slopes come near .01).

    For sizes up to 30 the map is steep by their square, so it is the image of the inverse that must be right, to the rounding
    of the pre-activation times |u|: 5e-4 of the largest value (measured 1.5e-4).  No NaN anywhere, gradients included.
    """
    parameters, forward, inverse = FLOWS[name]

    @jax.jit
    @jax.vmap
    def errors(seed, scale):
        key = jax.random.fold_in(jax.random.key(7), seed)
        z, p = 3 * jax.random.normal(key, (16, 8)), parameters(key, (), 8, scale)
        y, log_det = forward(z, *p)
        (total, (back, log_det_back)), slopes = jax.value_and_grad(
            lambda y, p: (sum(jnp.sum(v) for v in inverse(y, *p)), inverse(y, *p)), (0, 1), has_aux=True
        )(y, p)
        again, _ = forward(back, *p)
        finite = [jnp.isfinite(v).all() for v in jax.tree.leaves((y, log_det, total, log_det_back, slopes))]
        image = jnp.abs(again - y).max() / (1 + jnp.abs(y).max())
        return jnp.abs(back - z).max(), image, jnp.stack(finite).all()

    seeds = jnp.arange(200)
    for scale in (1e-3, 1.0, 10.0, 30.0):
        error, image, finite = errors(seeds, jnp.full(200, scale))
        assert error.dtype == jnp.float32 and finite.all() and float(image.max()) < 5e-4
        assert scale > 1 or float(error.max()) < 1e-4


@ALL
@pytest.mark.usefixtures("x64")
def test_zeros_give_the_identity(name):
    """Strengths of zero; the other parameters are anything.  Orthogonal maps: reflections in pairs."""
    z, p, forward, _ = setting(name)
    p = {
        "planar": lambda: (p[0], constraints.planar_u_hat(p[0], 0.0 * p[1]), p[2]),
        "radial": lambda: (p[0], p[1], constraints.radial_beta_hat(p[1], 0.0 * p[2])),
        "sylvester": lambda: (p[0], constraints.sylvester_triangle(0.0 * p[1]), *p[2:]),
        "householder": lambda: (0.0 * p[0],),
        "householder_product": lambda: (jnp.concatenate([p[0], p[0][:, ::-1]], axis=1),),
        "autoregressive": lambda: (0.0 * p[0], p[1] + 50.0),
    }[name.split(",")[0]]()
    y, log_det = jax.jit(forward)(z, *p)
    np.testing.assert_allclose(y, z, atol=1e-14)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_planar_is_the_sylvester_flow_of_rank_one():
    """For u along w: w = |w| q, u = r q."""
    z, (w, _, b), *_ = setting("planar")
    length = jnp.linalg.norm(w, axis=-1)
    q, r = w / length[:, None], 1.7
    direct = planar(z, w, r * q, b)
    matrix = length[:, None, None]
    flow = sylvester(z, q[..., None], jnp.full_like(matrix, r), matrix, b[:, None])
    for mine, theirs in zip(direct, flow, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_radial_at_its_centre():
    """The centre stays; slope and volume are those of the limit; gradients are finite."""
    centre, alpha, beta = jnp.array([1.0, -2.0, 0.5]), 0.7, 1.3
    for function, sign in ((radial, 1), (radial_inverse, -1)):
        at = jax.jit(lambda z, f=function: f(z, centre, alpha, beta))
        y, log_det = at(centre)
        np.testing.assert_array_equal(y, centre)
        assert float(log_det) == pytest.approx(sign * 3 * np.log(1 + beta / alpha), abs=1e-14)
        y_bar, log_det_bar = jax.jit(jax.jacrev(at))(centre)
        assert np.isfinite(y_bar).all() and np.isfinite(log_det_bar).all()


@checks(orthogonal.householder)
@pytest.mark.usefixtures("x64")
def test_reflections_are_involutions_and_keep_lengths():
    z, (v,), *_ = setting("householder")
    y, log_det = orthogonal.householder(z, v)
    np.testing.assert_allclose(orthogonal.householder(y, v)[0], z, atol=1e-14)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(z, axis=-1), rtol=1e-14)
    assert not log_det.any() and not np.allclose(y, z)
    np.testing.assert_array_equal(orthogonal.householder(z, jnp.zeros(5))[0], z)
    assert np.isfinite(jax.grad(lambda v: orthogonal.householder(z[0], v)[0].sum())(jnp.zeros(5))).all()


@checks(orthogonal.householder_product)
@pytest.mark.usefixtures("x64")
def test_product_of_reflections_is_the_product_of_their_matrices():
    z, (v,), *_ = setting("householder_product")
    one, z = np.asarray(v[0]), np.asarray(z[0])
    matrices = [np.eye(5) - 2 * np.outer(w, w) / (w @ w) for w in one]
    np.testing.assert_allclose(
        orthogonal.householder_product(z, v[0])[0], matrices[0] @ matrices[1] @ matrices[2] @ z, atol=1e-14
    )
    y, log_det = orthogonal.householder_product(z, v)  # one point, a batch of mirrors
    np.testing.assert_array_equal(y[0], orthogonal.householder_product(z, v[0])[0])
    assert y.shape == (len(v), 5) and log_det.shape == (len(v),)


@checks(orthogonal.orthonormal)
@pytest.mark.usefixtures("x64")
def test_orthonormal_columns_are_those_of_gram_schmidt():
    a = np.random.RandomState(0).randn(3, 5, 4)
    q = np.asarray(orthogonal.orthonormal(jnp.asarray(a)))
    for one, matrix in zip(q, a, strict=True):
        expected = np.zeros((5, 0))
        for column in matrix.T:
            rest = column - expected @ (expected.T @ column)
            expected = np.c_[expected, rest / np.linalg.norm(rest)]
        np.testing.assert_allclose(one, expected, atol=1e-13)
    np.testing.assert_array_equal(orthogonal.orthonormal(jnp.eye(4, 2)), np.eye(4, 2))
    with pytest.raises(
        ValueError, match=r"at most D columns can be orthonormal, got a matrix of shape \(2, 3\)"
    ):
        orthogonal.orthonormal(jnp.ones((2, 3)))


@checks(ar.forward_substitution)
@pytest.mark.usefixtures("x64")
def test_forward_substitution_solves_triangular_systems():
    a = jnp.tril(np.random.RandomState(0).randn(6, 6), -1)
    x = np.random.RandomState(1).randn(3, 6)
    z, log_det = ar.forward_substitution(lambda z, x, i: ((x - z @ a[i]) / 2, i * 1.0), jnp.asarray(x))
    expected = scipy.linalg.solve_triangular(2 * np.eye(6) + a, x.T, lower=True).T
    np.testing.assert_allclose(z, expected, atol=1e-12)
    np.testing.assert_array_equal(log_det, np.full(3, 15.0))


def test_gate_is_finite_at_its_ends():
    shift, log_scale = ar.gate(jnp.full(2, 3.0), jnp.array([-200.0, 200.0]))
    np.testing.assert_allclose(shift, [3.0, 0.0], atol=1e-30)
    np.testing.assert_allclose(log_scale, [-200.0, 0.0], atol=1e-30)
