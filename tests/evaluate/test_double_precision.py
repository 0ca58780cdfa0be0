"""Double precision, and single with double: evaluation, repeated and continuous flows, annealing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dlvm_jax import data, recipes
from dlvm_jax.evaluate.likelihood import log_likelihoods
from dlvm_jax.functional import annealing
from dlvm_jax.models import density, flows, objectives, scalars
from dlvm_jax.nets.mlp import MLP
from dlvm_jax.train import validation

X = np.random.RandomState(0).randn(4, 3)


def a_flow():
    scalar = scalars.affine()
    net = density.from_linen(MLP((8,), (2, scalar.width)), (1, 1))
    layer = flows.chain(flows.coupling(net, scalar, 1), flows.lu_linear(3))
    return flows.transformed(density.standard_normal(3), flows.repeated(layer, 2))


def test_a_repeated_flow_takes_single_precision_points_under_double_precision_parameters(x64):
    """They are known to 6e-8 of themselves; evaluation gives the flow its own precision."""
    flow = a_flow()
    params = flow.init(jax.random.key(0))
    exact = np.asarray(flow.log_prob(params, None, jnp.asarray(X)))
    rounded = flow.log_prob(params, None, jnp.asarray(X, jnp.float32))
    assert rounded.dtype == jnp.float64
    np.testing.assert_allclose(rounded, exact, rtol=1e-5)
    found = log_likelihoods(flow, params, X, key=jax.random.key(0), samples=1)["bound"]
    np.testing.assert_allclose(found, exact, rtol=1e-13)


def test_a_continuous_flow_takes_single_precision_points_under_double_precision_parameters(x64):
    """Of dx/dt = a x, whose log-determinant is the sum of a."""
    rate = jnp.asarray([0.3, -0.2, 0.5])
    flow = flows.continuous(density.Net(lambda key: {}, lambda params, x, t: rate * x), steps=40)
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.float64, 1e-8)):
        y, log_det = flow.forward({}, jnp.asarray(X, dtype))
        assert y.dtype == log_det.dtype == jnp.float64
        np.testing.assert_allclose(y, X * np.exp(rate), rtol=tolerance)
        np.testing.assert_allclose(log_det, 0.6, rtol=1e-8)


@pytest.mark.parametrize("flow", recipes.Flow.__dataclass_fields__["flow"].metadata["choices"])
def test_every_flow_mixes_precisions(x64, flow):
    """As shapes and types alone: nothing is computed."""
    recipe = recipes.Flow(flow=flow, depth=2, width=8, hidden=1)
    spec = data.load("digits" if recipe.transform else "eight_gaussians", transform=recipe.transform).spec
    if "glow" in flow or flow == "realnvp":
        spec = data.load("digits", transform="dequantised").spec
    model = recipe.build(spec, {})
    params = jax.eval_shape(model.init, jax.random.key(0))
    for dtype in (jnp.float32, jnp.float64):
        x = jax.ShapeDtypeStruct((6, *spec.event_shape), dtype)
        assert jax.eval_shape(lambda p, x: model.density.log_prob(p, None, x), params, x).shape == (6,)
        if model.adapt:
            jax.eval_shape(model.adapt, params, x)


def test_annealing_mixes_precisions(x64):
    """From a single-precision start to a double-precision target of known constant."""
    target = lambda z: -0.5 * jnp.square(jnp.asarray(z, jnp.float64) - 0.1).sum(-1) - 7.0
    start = lambda z: -0.5 * jnp.square(z).sum(-1)
    z0 = jax.random.normal(jax.random.key(0), (30, 2, 2), jnp.float32)
    betas = annealing.sigmoid_betas(4)
    steps = annealing.adapt_step_size(jax.random.key(1), start, target, z0, betas, leapfrog_steps=2)
    found = annealing.ais(jax.random.key(2), start, target, z0, betas, steps, leapfrog_steps=2)
    assert found.log_w.dtype == found.z.dtype == jnp.float64
    np.testing.assert_allclose(
        found.log_w.mean(), -7.0, atol=0.1
    )  # weights vary by exp(0.14): 8 standard errors


class Embedded(nn.Module):
    """The mean and log-std of each class."""

    @nn.compact
    def __call__(self, label):
        return nn.Embed(10, 6)(label).reshape(*label.shape, 3, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_reach_a_model_as_integers(dtype):
    """In validation and in evaluation, as in training."""
    net = Embedded()
    init = lambda key: net.init(key, jnp.zeros(1, jnp.int32))
    model = density.conditional(density.Net(init, net.apply), density.normal(), (3,))
    params, x, labels = model.init(jax.random.key(0)), np.zeros((8, 3), np.float32), np.arange(8)
    objective = objectives.negative_log_likelihood(model)
    exact = float(objective(params, None, (jnp.asarray(x), jnp.asarray(labels)))[0])
    batch = x, labels.astype(dtype)
    found = log_likelihoods(model, params, batch, key=jax.random.key(0), samples=1)["bound"].mean()
    assert found == pytest.approx(-exact, rel=1e-6)
    assert validation.validator(objective, batch)(params)["score"] == pytest.approx(exact, rel=1e-6)
