"""Vector quantisation: nearest codes by hand, gradients as derived, moving averages against Lloyd's algorithm and k-means."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from dlvm_jax.functional import vector_quantisation as vq
from tests.functional.common import checks

RNG = np.random.RandomState(0)
Z, CODES = RNG.randn(30, 3).astype(np.float32), RNG.randn(7, 3).astype(np.float32)


@checks(vq.nearest_codes)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_codes_by_a_loop_in_double_precision(offset):
    """Far from zero as well, where the expanded square has lost all digits: 1e8 in float32 is right to 8."""
    z, codes = Z + np.float32(offset), CODES + np.float32(offset)
    expected = [np.argmin([((a - b) ** 2).sum() for b in codes.astype(float)]) for a in z.astype(float)]
    np.testing.assert_array_equal(vq.nearest_codes(z, codes), expected)
    many = vq.nearest_codes(z.reshape(5, 6, 3), codes)
    np.testing.assert_array_equal(many.ravel(), expected)


@checks(vq.straight_through)
def test_straight_through_is_the_code_and_has_its_gradient():
    """To the last bit, however large the vector beside the code."""
    code = CODES[vq.nearest_codes(Z, CODES)]
    np.testing.assert_array_equal(vq.straight_through(1e6 * Z, code), code)
    loss = lambda e: jnp.sum(jnp.sin(e) * jnp.arange(3.0))
    found = jax.grad(lambda z: loss(vq.straight_through(z, code)))(jnp.asarray(Z))
    np.testing.assert_array_equal(found, jax.grad(loss)(jnp.asarray(code)))
    assert not np.asarray(jax.grad(lambda e: loss(vq.straight_through(Z, e)))(jnp.asarray(code))).any()


@checks(vq.rotation)
def test_the_rotation_takes_directions_and_its_gradient_turns_with_it(x64):
    """The Jacobian is |e|/|z| times a rotation of the plane of z and e, which takes z's direction to e's, built by hand."""
    for z, e in zip(Z.astype(float), CODES[[0, 1, 2, 3, 4] * 6].astype(float), strict=True):
        np.testing.assert_allclose(vq.rotation(z, e), e, rtol=1e-10, atol=1e-12)
        jacobian = np.asarray(jax.jacobian(lambda z, e=e: vq.rotation(z, e))(z))
        stretch = np.linalg.norm(e) / np.linalg.norm(z)
        turn = jacobian / stretch
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-10)
        assert np.linalg.det(turn) == pytest.approx(1)
        axis = np.cross(z, e)
        np.testing.assert_allclose(turn @ axis, axis, atol=1e-10)  # what is at right angles to both stays
        np.testing.assert_allclose(turn @ z / np.linalg.norm(z), e / np.linalg.norm(e), atol=1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_rotation_of_any_size_and_where_there_is_none(scale):
    """Tiny and huge vectors; zero, and opposite directions, go straight through."""
    z, e = jnp.array([3.0, 4.0]) * scale, jnp.array([0.0, 2.0])
    np.testing.assert_allclose(vq.rotation(z, e), e, rtol=1e-6, atol=1e-6)
    for z in (jnp.zeros(2), jnp.array([0.0, -5.0])):
        np.testing.assert_array_equal(vq.rotation(z, e), e)
        np.testing.assert_array_equal(jax.jacobian(vq.rotation)(z, e), np.eye(2))


@checks(vq.codebook_loss, vq.commitment_loss)
def test_the_two_losses_have_one_value_and_their_own_gradients():
    """The code book's gradient is 2 n_k (e_k - mean of its vectors), the commitment's 2 (z - e); nothing goes the other way."""
    index = np.asarray(vq.nearest_codes(Z, CODES))
    np.testing.assert_allclose(vq.codebook_loss(Z, CODES[index]), ((Z - CODES[index]) ** 2).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(vq.codebook_loss(Z, CODES[index]), vq.commitment_loss(Z, CODES[index]))
    book = lambda z, codes: vq.codebook_loss(z, codes[index]).sum()
    commit = lambda z, codes: vq.commitment_loss(z, codes[index]).sum()
    by_hand = np.stack([2 * (CODES[k] - Z[index == k]).sum(0) for k in range(len(CODES))])
    np.testing.assert_allclose(jax.grad(book, 1)(Z, jnp.asarray(CODES)), by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.grad(commit)(jnp.asarray(Z), CODES), 2 * (Z - CODES[index]), rtol=1e-5)
    assert not np.asarray(jax.grad(book)(jnp.asarray(Z), CODES)).any()
    assert not np.asarray(jax.grad(commit, 1)(Z, jnp.asarray(CODES))).any()


@checks(vq.moving_averages, vq.codes_of)
def test_without_memory_a_step_is_that_of_lloyd():
    """The codes become the means of their vectors; one that has none stays."""
    codes = np.concatenate([CODES, [[50.0, 50.0, 50.0]]]).astype(np.float32)
    index = np.asarray(vq.nearest_codes(Z, codes))
    start = vq.Averages(jnp.full(8, 9.0), jnp.ones((8, 3)))
    found = vq.codes_of(vq.moving_averages(start, Z, index, 0.0), codes)
    for k in range(8):
        expected = Z[index == k].mean(0) if (index == k).any() else codes[k]
        np.testing.assert_allclose(found[k], expected, rtol=1e-5, atol=1e-6)


def test_with_memory_it_reaches_the_fixed_point_of_k_means():
    """From the same start, on fixed vectors, decay .9: scikit-learn's centres, to 1e-3 of float32 sums that forget .9^300."""
    codes = jnp.asarray(Z[:5])
    averages = vq.Averages(jnp.ones(5), codes)
    step = jax.jit(lambda codes, averages: vq.moving_averages(averages, Z, vq.nearest_codes(Z, codes), 0.9))
    for _ in range(300):
        averages = step(codes, averages)
        codes = vq.codes_of(averages, codes)
    index = np.asarray(vq.nearest_codes(Z, codes))
    means = np.stack([Z[index == k].mean(0) for k in range(5)])
    np.testing.assert_allclose(codes, means, atol=1e-3)
    again = KMeans(5, init=np.asarray(codes), n_init=1).fit(Z)
    np.testing.assert_allclose(again.cluster_centers_, codes, atol=1e-3)


@checks(vq.restart)
def test_a_restart_moves_dead_codes_onto_the_batch_and_no_other():
    counts = jnp.array([5.0, 0.1, 0.0, 0.9, 1.0, 3.0, 0.5])
    found, dead = vq.restart(jax.random.key(0), CODES, counts, Z, 0.9)
    np.testing.assert_array_equal(dead, counts < 0.9)
    np.testing.assert_array_equal(found[~dead], CODES[~np.asarray(dead)])
    assert all((code == Z).all(1).any() for code in np.asarray(found[dead]))
    assert len(np.unique(np.asarray(found[dead]), axis=0)) > 1


@checks(vq.perplexity)
def test_perplexity_of_equal_and_of_unequal_use():
    assert float(vq.perplexity(np.full(9, 4))) == pytest.approx(9)
    assert float(vq.perplexity(np.array([7, 0, 0]))) == pytest.approx(1)
    p = np.array([0.5, 0.25, 0.25])
    assert float(vq.perplexity(8 * p)) == pytest.approx(2 ** (0.5 + 0.5 + 0.5))
    assert np.isnan(vq.perplexity(jnp.zeros(3)))


@checks(vq.finite_scalar, vq.finite_scalar_index, vq.finite_scalar_code)
def test_a_grid_has_all_its_points_numbered_once(x64):
    """Every point of 2 x 3 x 5 levels is reached, is its own nearest point, and has the number of a mixed-radix count."""
    levels = (2, 3, 5)
    digits = np.array(list(itertools.product(*map(range, levels))), float)
    points = 2 * digits / (np.array(levels) - 1) - 1
    found = vq.finite_scalar(np.arctanh(0.999 * points), levels)
    np.testing.assert_allclose(found, points, atol=1e-12)
    np.testing.assert_array_equal(vq.finite_scalar_index(found, levels), np.arange(30))
    np.testing.assert_allclose(
        vq.finite_scalar_code(np.arange(30).reshape(5, 6), levels), points.reshape(5, 6, 3), atol=1e-12
    )
    z = 2 * RNG.randn(200, 3)
    nearest = np.abs(np.tanh(z)[:, None] - points).argmin(1)  # of each element by itself
    expected = np.take_along_axis(points, nearest, axis=0)
    np.testing.assert_allclose(vq.finite_scalar(z, levels), expected, atol=1e-12)
    slope = jax.grad(lambda z: vq.finite_scalar(z, levels).sum())(z)
    np.testing.assert_allclose(slope, 1 - np.tanh(z) ** 2, rtol=1e-10)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"vectors \[\*batch, D\] go with a code book \[K, D\]"):
        vq.nearest_codes(Z, CODES[:, :2])
    with pytest.raises(ValueError, match=r"two levels or more for each of the 3 elements, got \[4, 1, 2\]"):
        vq.finite_scalar(Z, (4, 1, 2))
