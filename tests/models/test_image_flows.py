"""Flows on images: log-determinants against the whole Jacobian, round trips, actnorm at every scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.models import density, flows, image_flows, scalars

SHAPE = (4, 4, 1)
FLOWS = {
    "glow": lambda: image_flows.glow(scalars.affine(), SHAPE, 2, 2, 4, 1),
    "spline glow": lambda: image_flows.glow(scalars.rational_quadratic(4, 3.0), SHAPE, 1, 2, 4, 1),
    "realnvp": lambda: image_flows.realnvp(scalars.affine(), SHAPE, 2, 2, 4, 1),
}


def moved(init, scale=0.1):
    params, rng = init(jax.random.key(0)), np.random.RandomState(0)
    return jax.tree.map(lambda a: jnp.asarray(a + scale * rng.randn(*a.shape), float), params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FLOWS)
def test_bijection(name):
    """16 x 16 Jacobian of the flow from latent vectors to images; networks compute in float32, so to 1e-5."""
    flow = FLOWS[name]()
    params = moved(flow.init)
    z = jnp.asarray(np.random.RandomState(1).randn(2, 16))
    forward, inverse = jax.jit(flow.forward), jax.jit(flow.inverse)
    x, log_det = forward(params, z)
    assert x.shape == (2, *SHAPE) and ((x > -0.02) & (x < 1.02)).all()
    back, log_det_back = inverse(params, x)
    np.testing.assert_allclose(back, z, atol=1e-5)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-5)
    jacobian = jax.jit(jax.jacfwd(lambda z: flow.forward(params, z)[0].ravel()))(z[1])
    np.testing.assert_allclose(log_det[1], np.linalg.slogdet(jacobian)[1], atol=1e-5)


def test_a_checkerboard_moves_each_square_once_by_the_other_colour():
    """First white by black, so that no white square depends on the other one; then black by the new white."""
    board = image_flows.checkerboard(scalars.affine(), (2, 2, 1), 2, 1)
    params = moved(board.init, 0.5)
    x = jnp.asarray([[0.3, -0.2], [0.8, 1.1]])[..., None]
    y, log_det = jax.jit(board.forward)(params, x)
    np.testing.assert_allclose(jax.jit(board.inverse)(params, y)[0], x, atol=1e-5)
    jacobian = jax.jit(jax.jacfwd(lambda x: board.forward(params, x)[0].ravel()))(x).reshape(4, 4)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-5)
    moves = abs(jacobian - np.eye(4)) > 1e-6
    assert moves.diagonal().all() and moves[0, 3] and not moves[1, 2]  # squares 0 and 3 are black


def test_adapt_normalises_the_latent_points():
    """After `adapt` each channel that leaves the flow has mean 0 and variance 1: couplings and linear maps start as nothing.

    The latent vector of two scales holds 2 x 2 pixels of 2 channels, then 8 channels.
    """
    flow = FLOWS["glow"]()
    x = jax.random.uniform(jax.random.key(0), (400, *SHAPE)) ** 3
    params = jax.jit(flow.adapt)(flow.init(jax.random.key(1)), x)
    z, _ = jax.jit(flow.inverse)(params, x)
    for channels in (z[:, :8].reshape(-1, 2), z[:, 8:]):
        np.testing.assert_allclose(channels.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(channels.std(0), 1, atol=1e-3)


def test_uniform_grey_has_exactly_its_bits():
    """A flow that does nothing between a logistic base and the grey values is the uniform density: 0 nats on [0, 1]."""
    flow = flows.chain(image_flows.reshaped(SHAPE), image_flows.from_logits(0.0))

    def log_prob(params, key, z, context=None):
        return (jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)).sum(-1)

    logistic = density.Density(lambda key: {}, None, log_prob, "exact")
    x = jax.random.uniform(jax.random.key(0), (5, *SHAPE), minval=0.01, maxval=0.99)
    dens = flows.transformed(logistic, flow)
    np.testing.assert_allclose(dens.log_prob(dens.init(jax.random.key(0)), None, x), 0, atol=1e-4)


def test_impossible_scales_are_refused():
    with pytest.raises(ValueError, match="at least one scale, got 0"):
        image_flows.multiscale(None, (4, 4, 1), 0)
    with pytest.raises(ValueError, match="halves an image, got sides 7 x 7"):
        image_flows.glow(scalars.affine(), (28, 28, 1), 3, 1, 4, 1)
