"""Restoration against the normal equations, and against the mode of a Gaussian model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import restoration
from dlvm_jax.functional.diffusion.inverse import average_pooling, blur, inpainting
from tests.functional.common import checks

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.RandomState(0)
SHAPE = (2, 4, 1)
MASK = RNG.rand(*SHAPE) < 0.6
KERNEL = RNG.rand(1, 3)
PROBLEMS = {
    "mask": inpainting(MASK),
    "blur": lambda x: blur(KERNEL)(x),
    "average": average_pooling(2),
}
MEAN = RNG.randn(3, *SHAPE)
SCALE = 0.2 + RNG.rand(3, *SHAPE)  # of each pixel of each example
STD = 0.3


def matrix(observe):
    """A [entries of y, 8]."""
    return np.asarray(jax.jit(observe)(jnp.eye(8).reshape(8, *SHAPE))).reshape(8, -1).T


def observation(observe):
    """y [3, ...], with noise."""
    return np.random.RandomState(1).randn(*jax.eval_shape(observe, jnp.asarray(MEAN)).shape)


@checks(restoration.data_step, restoration.data_step_masked)
def test_the_data_step_solves_the_normal_equations():
    """(A^T A / s^2 + 1 / g^2) x = A^T y / s^2 + m / g^2 for each example; of a mask also in closed form.

    Conjugate gradients are exact after as many iterations as y has entries, 8 at most.
    """
    for name, observe in PROBLEMS.items():
        a, y = matrix(observe), observation(observe)
        y = y * MASK if name == "mask" else y
        expected = [
            np.linalg.solve(a.T @ a / STD**2 + np.diag(1 / g**2), a.T @ y / STD**2 + m / g**2)
            for y, m, g in (map(np.ravel, row) for row in zip(y, MEAN, SCALE, strict=True))
        ]
        run = lambda y, m, g, observe=observe: restoration.data_step(observe, y, STD, m, g, 16, event_ndim=3)
        np.testing.assert_allclose(jax.jit(run)(y, MEAN, SCALE).reshape(3, 8), expected, atol=1e-10)
        if name == "mask":
            closed = restoration.data_step_masked(MASK, y, STD, MEAN, SCALE)
            np.testing.assert_allclose(closed.reshape(3, 8), expected, atol=1e-10)
    with pytest.raises(ValueError, match=r"observe gives shape \(3, 1, 2, 1\), but the observation y has"):
        run(MEAN, MEAN, SCALE)


def test_adjoints_satisfy_the_inner_product_identity():
    for observe in PROBLEMS.values():
        x, y = jnp.asarray(MEAN), observation(observe)
        both = jax.jit(lambda x, y, o=observe: (o(x), jax.linear_transpose(o, x)(y)[0]))
        forward, back = map(np.asarray, both(x, y))
        assert np.vdot(forward, y) == pytest.approx(np.vdot(MEAN, back), rel=1e-12)


def test_a_mask_without_noise_puts_in_what_is_known():
    found = restoration.data_step_masked(MASK, 1.0 * MASK, 0.0, MEAN, SCALE)
    np.testing.assert_allclose(found, np.where(MASK, 1.0, MEAN), rtol=1e-12)
    run = lambda scale: restoration.data_step_masked(MASK, 1.0 * MASK, 0.0, MEAN, scale).sum()
    assert np.isfinite(jax.grad(run)(jnp.asarray(SCALE))).all()


@checks(restoration.pnp)
def test_a_linear_pass_ends_in_the_mode_of_its_gaussian_model():
    """x = L z + g e: the pass is E[L z | x], the mode of p(x, z | y) the posterior's mean of x."""
    scale, loading, observe = 0.6, np.random.RandomState(2).randn(8, 2), PROBLEMS["average"]
    covariance = loading @ loading.T + scale**2 * np.eye(8)
    gain = loading @ loading.T @ np.linalg.inv(covariance)
    a, y = matrix(observe), observation(observe)

    @jax.jit
    def run(y, tolerance):
        autoencode = lambda x: ((x.reshape(-1, 8) @ gain.T).reshape(x.shape), jnp.full_like(x, scale))
        step = lambda m, g: restoration.data_step(observe, y, STD, m, g, 2, event_ndim=3)
        return restoration.pnp(autoencode, step, jnp.zeros(MEAN.shape), 2000, tolerance, event_ndim=3)

    best = covariance @ a.T @ np.linalg.solve(a @ covariance @ a.T + STD**2 * np.eye(2), y.reshape(3, 2).T)
    found = run(y, 1e-12)
    np.testing.assert_allclose(found.x.reshape(3, 8), best.T, atol=1e-9)
    assert (found.residual <= 1e-12).all() and (found.iterations < 2000).all()
    # each example by itself: it rests where it has arrived, however long the others take
    found, alone = run(y, 0.01), run(np.stack([y[0]] * 3), 0.01)
    assert len(set(found.iterations.tolist())) > 1
    np.testing.assert_allclose(alone.x[2], found.x[0], rtol=1e-12)
    assert alone.iterations[2] == found.iterations[0] < found.iterations.max()


def test_it_makes_no_more_iterations_than_asked_for():
    halve, grow = lambda x: (x / 2, x), lambda m, g: m + 3
    found = restoration.pnp(halve, grow, jnp.zeros((2, 1)), 3, event_ndim=1)
    np.testing.assert_allclose(found.x, 3 + 1.5 + 0.75)
    np.testing.assert_allclose(found.residual, 0.75)
    assert found.iterations.tolist() == [3, 3]
    for iterations, event_ndim, message in ((0, 1, "one iteration, got 0"), (3, 3, "not have 3 event axes")):
        with pytest.raises(ValueError, match=message):
            restoration.pnp(halve, grow, jnp.zeros((2, 1)), iterations, event_ndim=event_ndim)
