"""A density given its context: one batch, whatever the posterior; uniform laws do not answer for NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.models import curved, density, flow_densities, flows, gaussian
from dlvm_jax.models.vamp import vamp
from dlvm_jax.nets.mlp import MLP

Z = np.array([[0.1, 0.2], [-0.3, 0.1], [0.2, 0.0]], np.float32)
CONTEXT = np.eye(3, 4, dtype=np.float32)


def net(*outputs):
    return density.from_linen(MLP((), outputs), (1, 4))


def planar():
    flow = flow_densities.FLOWS["planar"](2, 1)
    return flow_densities.flow_posterior(net(flow_densities.outputs_needed(flow, 2)), flow, 2)


CONDITIONAL = {
    "full": lambda: gaussian.full_normal(net(5), 2),
    "von Mises-Fisher": lambda: curved.von_mises_fisher(net(3), 2),
    "wrapped": lambda: curved.wrapped_normal(net(2, 2), 2, 1.0),
    "planar": planar,
}


def test_contexts_in_a_column_would_be_every_pair():
    for make in CONDITIONAL.values():
        law = make()
        params = law.init(jax.random.key(0))
        assert jax.eval_shape(law.log_prob, params, None, jnp.stack([Z, Z]), CONTEXT).shape == (2, 3)
        assert jax.eval_shape(law.log_prob, params, None, Z, CONTEXT[:1]).shape == (3,)
        for z, context in ((Z, CONTEXT[:, None]), (Z[:, None], CONTEXT)):
            with pytest.raises(ValueError, match="every pair"):
                jax.eval_shape(law.log_prob, params, None, z, context)


def test_a_vamp_prior_of_a_full_gaussian_is_the_mean_density_of_its_pseudo_inputs():
    posterior = CONDITIONAL["full"]()
    params = posterior.init(jax.random.key(0))
    prior = vamp(posterior, CONTEXT[:2], train=False)
    each = [posterior.log_prob(params, None, Z, CONTEXT[k : k + 1]) for k in range(2)]
    got = prior.log_prob({"posterior": params}, None, Z)
    np.testing.assert_allclose(got, np.logaddexp(*each) - np.log(2), rtol=1e-6)
    with pytest.raises(ValueError, match="finite"):
        vamp(posterior, np.full((2, 4), np.nan), train=False)


def test_uniform_laws_of_nan_are_nan_and_of_integers_floats():
    x = jnp.array([[jnp.nan, 0.0], [1.0, 0.0]])
    for law in (curved.uniform_sphere(2), flows.uniform_torus(2)):
        got = law.log_prob({}, None, x)
        assert jnp.isnan(got[0]) and got[1] == law.log_prob({}, None, jnp.array([1, 0]))
        with pytest.raises(ValueError, match="real numbers"):
            law.log_prob({}, None, x + 0j)
