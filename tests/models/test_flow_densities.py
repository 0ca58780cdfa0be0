"""Flow posteriors: densities against autodiff, round trips, and their steps against explicit composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import densities
from dlvm_jax.models import density, flow_densities, flows
from dlvm_jax.nets.masked import MADE

DIM, STEPS = 3, 3  # an odd number of steps, so that an order which is not put back shows
NET = density.Net(lambda key: {}, lambda params, x: x)  # the context is what a network would give


def posterior(name):
    """A posterior and the number of outputs of its network."""
    if name == "iaf":
        made = density.from_linen(MADE((8,), DIM, 2, dtype=None), ((1, DIM), (1, 2)))
        net = density.Net(lambda key: {}, lambda params, x: x)
        return flow_densities.iaf_posterior(net, made, DIM, STEPS), 2 * DIM + 2
    flow = flow_densities.FLOWS[name](DIM, STEPS)
    return flow_densities.flow_posterior(NET, flow, DIM), flow_densities.outputs_needed(flow, DIM)


def doubles(params):
    return jax.tree.map(lambda a: jnp.asarray(a, float), params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [*flow_densities.FLOWS, "iaf"])
def test_density_of_a_flow_posterior(name):
    """log_prob of a draw is what `sample` says, and the Gaussian's less the log-determinant of the autodiff Jacobian.

    The network's outputs are mean, log-standard deviation, and the raw parameters of one step after another.
    """
    q, outputs = posterior(name)
    params = doubles(q.init(jax.random.key(0)))
    context = jnp.asarray(np.random.RandomState(0).randn(2, outputs))
    z, stated = q.sample(params, jax.random.key(1), context)
    np.testing.assert_allclose(q.log_prob(params, None, z, context), stated, atol=1e-9)
    eps = jax.random.normal(jax.random.key(1), (2, DIM), float)
    mean, log_std = context[0, :DIM], context[0, DIM : 2 * DIM]

    def draw(start):  # the same draw with another start of its first example
        moved = context.at[0, :DIM].set(start - jnp.exp(log_std) * eps[0])
        return q.sample(params, jax.random.key(1), moved)[0][0]

    start = mean + jnp.exp(log_std) * eps[0]
    np.testing.assert_allclose(draw(start), z[0], atol=1e-12)
    if name != "iaf":
        flow = flow_densities.FLOWS[name](DIM, STEPS)
        raw_params = context[0, 2 * DIM :].reshape(STEPS, -1)
        np.testing.assert_allclose(flow.forward(raw_params, start)[0], z[0], atol=1e-12)
    log_det = np.linalg.slogdet(jax.jacfwd(draw)(start))[1]
    np.testing.assert_allclose(
        stated[0], densities.normal_log_prob(start, mean, log_std) - log_det, atol=1e-9
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sylvester-triangular", "planar"])
def test_steps_of_a_flow_one_after_another(name):
    """The raw parameters of each step are its own; T-SNF's second step takes the coordinates in reversed order."""
    step = {"planar": flow_densities.planar, "sylvester-triangular": flow_densities.sylvester_triangular}[
        name
    ](DIM)
    flow = flow_densities.FLOWS[name](DIM, STEPS)
    raw_params = 3 * flow.init(jax.random.key(0))
    assert raw_params.shape == (STEPS, flow_densities.outputs_needed(flow, DIM) // STEPS - 2)
    z = jnp.asarray(np.random.RandomState(0).randn(5, DIM))
    expected, total = z, 0.0
    for number, own in enumerate(raw_params):
        back = name == "sylvester-triangular" and number == 1
        expected, log_det = step.forward(own, expected[:, ::-1] if back else expected)
        expected, total = expected[:, ::-1] if back else expected, total + log_det
    value, log_det = flow.forward(raw_params, z)
    np.testing.assert_allclose(value, expected, atol=1e-12)
    np.testing.assert_allclose(log_det, total, atol=1e-12)


def test_a_network_of_zeros_leaves_a_posterior_its_gaussian():
    """Outputs of zero give the draws of N(0, I) themselves, but of the Householder flow, whose steps are reflections."""
    for name in flow_densities.FLOWS:
        q, outputs = posterior(name)
        z, log_prob = q.sample({}, jax.random.key(0), jnp.zeros((4, outputs)))
        eps = jax.random.normal(jax.random.key(0), (4, DIM))
        np.testing.assert_allclose(log_prob, densities.normal_log_prob(eps, 0.0, 0.0), atol=1e-5)
        if name != "householder":
            np.testing.assert_allclose(z, eps, atol=1e-5)


def test_what_a_flow_posterior_refuses():
    q, outputs = posterior("planar")
    with pytest.raises(ValueError, match=r"vectors of 3 numbers, got an array of shape \(4, 1\)"):
        q.log_prob({}, None, jnp.zeros((4, 1)), jnp.ones((4, outputs)))
    with pytest.raises(
        ValueError, match=r"3 steps of this flow on R\^3 need 27 numbers, the network gives 5"
    ):
        q.sample({}, jax.random.key(0), jnp.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"one array \[steps, width\], got \[\(7,\)\]; make it by FLOWS"):
        flow_densities.outputs_needed(flow_densities.planar(DIM), DIM)
    with pytest.raises(ValueError, match=r"one array \[steps, width\], got \[\]"):
        flow_densities.flow_posterior(NET, flows.reverse(DIM), DIM)
    with pytest.raises(ValueError, match="positive integer steps, got 0"):
        flow_densities.FLOWS["radial"](DIM, 0)
