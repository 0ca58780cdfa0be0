"""Toys in the plane: their densities integrate to one, and their samplers draw from those densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.data import toys

KNOWN = [name for name, toy in toys.TOYS.items() if toy.log_prob is not None]


def grid(half_width, n):
    """Midpoints of n x n cells on a square, and the area of a cell."""
    middle = (np.arange(n) + 0.5) / n * 2 * half_width - half_width
    return jnp.stack(jnp.meshgrid(middle, middle, indexing="ij"), -1), (2 * half_width / n) ** 2


@pytest.mark.parametrize("name", KNOWN)
def test_density_integrates_to_one_and_has_the_stated_entropy(name, x64):
    """Midpoint rule: exact for the board (cells do not cross its squares), spectrally accurate for the Gaussians."""
    toy = toys.TOYS[name]
    points, area = grid(8.0, 800)
    log_p = toy.log_prob(points)
    p = jnp.exp(log_p)
    assert log_p.shape == (800, 800)
    np.testing.assert_allclose(p.sum() * area, 1, rtol=1e-10)
    entropy = -jnp.where(p > 0, p * jnp.where(p > 0, log_p, 0.0), 0.0).sum() * area
    np.testing.assert_allclose(entropy, toy.entropy, rtol=1e-10)


@pytest.mark.parametrize("name", KNOWN)
def test_samples_follow_the_density(name):
    """Chi-squared over the cells with at least 5 expected points; a right sampler fails with probability 1e-6."""
    from scipy.stats import chi2

    toy, n, cells, inside = toys.TOYS[name], 40_000, 16, 20
    x = np.asarray(toy.sample(jax.random.key(0), n))
    counts = np.histogram2d(x[:, 0], x[:, 1], cells, [[-4, 4], [-4, 4]])[0]
    points, area = grid(4.0, cells * inside)
    p = np.asarray(jnp.exp(toy.log_prob(points))).reshape(cells, inside, cells, inside).sum((1, 3)) * area
    expected, used = n * p, n * p >= 5
    rest = n - expected[used].sum()
    statistic = ((counts - expected)[used] ** 2 / expected[used]).sum()
    statistic += (n - counts[used].sum() - rest) ** 2 / max(rest, 5)
    assert statistic < chi2.isf(1e-6, used.sum())
    assert x.shape == (n, 2) and x.dtype == np.float32


def test_every_sample_of_the_board_lies_on_it():
    x = toys.checkerboard(jax.random.key(1), 200_000)
    np.testing.assert_array_equal(toys.checkerboard_log_prob(x), np.float32(-np.log(32)))
    assert toys.checkerboard_log_prob(jnp.array([4.0, 0.5])) == -jnp.inf


def test_moons_without_noise_are_the_two_arcs():
    x = np.asarray(toys.two_moons(jax.random.key(2), 4000, std=0.0))
    upper = np.isclose(np.hypot(x[:, 0], x[:, 1]), 1, atol=1e-5) & (x[:, 1] > -1e-5)
    lower = np.isclose(np.hypot(x[:, 0] - 1, x[:, 1] - 0.5), 1, atol=1e-5) & (x[:, 1] < 0.5 + 1e-5)
    assert (upper | lower).all()
    assert abs(upper.mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)  # five deviations


@pytest.mark.parametrize("name", toys.TOYS)
def test_samplers_are_jittable_and_reproducible(name):
    draw = jax.jit(toys.TOYS[name].sample, static_argnums=1)
    np.testing.assert_allclose(
        draw(jax.random.key(3), 50), toys.TOYS[name].sample(jax.random.key(3), 50), rtol=1e-5, atol=1e-6
    )
    assert (draw(jax.random.key(3), 50) != draw(jax.random.key(4), 50)).any()
