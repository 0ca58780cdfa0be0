"""Bijections without parameters, and what raw parameters become, element by element."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from dlvm_jax.models import bijections, density, flow_densities, image_flows


def test_reverse_turns_the_last_axis():
    x = jnp.arange(12.0).reshape(2, 2, 3)
    for flow, batch in ((bijections.reverse(3), (2, 2)), (bijections.reverse(3, event_ndim=2), (2,))):
        for way in (flow.forward, flow.inverse):
            y, log_det = way({}, x)
            np.testing.assert_array_equal(y, np.asarray(x)[..., [2, 1, 0]])
            np.testing.assert_array_equal(log_det, np.zeros(batch))


def test_reshaped_keeps_the_order_and_the_volume():
    flow, z = image_flows.reshaped((2, 3, 1)), jnp.arange(24.0).reshape(4, 6)
    x, log_det = flow.forward({}, z)
    assert x.shape == (4, 2, 3, 1)
    np.testing.assert_array_equal(x.reshape(4, 6), z)
    np.testing.assert_array_equal(log_det, np.zeros(4))
    back, log_det = flow.inverse({}, x)
    np.testing.assert_array_equal(back, z)
    np.testing.assert_array_equal(log_det, np.zeros(4))


def test_triangles_of_a_sylvester_flow_share_a_square_of_its_rank():
    """Above the diagonal R has 0.1 a_ij / sqrt(M), R~ its transpose without the 0.1: rows of one length for every rank M."""
    for rank in (2, 9):
        raw = jnp.asarray(np.random.RandomState(rank).randn(rank * (rank + 2)), jnp.float32)
        square = np.asarray(raw[: rank * rank]).reshape(rank, rank) / np.sqrt(rank)
        r, other, b = flow_densities._triangles(raw, rank)
        above = np.triu_indices(rank, 1)
        np.testing.assert_allclose(r[above], 0.1 * square[above], rtol=1e-5)
        np.testing.assert_allclose(other[above], square.T[above], rtol=1e-5)
        np.testing.assert_array_equal(b, raw[-rank:])


def test_an_iaf_starts_with_gates_nearly_open():
    """A network of zeros scales by sigmoid(2) a step (Kingma et al. 2016, appendix C): the posterior stays a Gaussian."""
    dim, steps, gate = 3, 2, 1 / (1 + np.exp(-2.0))
    out = jnp.asarray(
        [[0.3, -1.0, 2.0, 0.1, 0.2, -0.3, 9.0]]
    )  # means, log-standard deviations, and the context h
    net = density.Net(lambda key: {}, lambda params, x: out)
    made = density.Net(lambda key: jnp.zeros(()), lambda params, inputs: jnp.zeros((*inputs[0].shape, 2)))
    posterior = flow_densities.iaf_posterior(net, made, dim, steps)
    params = posterior.init(jax.random.key(0))
    z, log_q = posterior.sample(params, jax.random.key(1), jnp.zeros((1, 1)), (50,))
    law = scipy.stats.norm(gate**steps * out[0, :3], gate**steps * np.exp(out[0, 3:6]))
    np.testing.assert_allclose(log_q[:, 0], law.logpdf(z[:, 0]).sum(-1), rtol=1e-5, atol=1e-5)
