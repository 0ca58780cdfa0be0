"""Annealed importance sampling of VAEs whose evidence is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.evaluate.annealed import annealed_log_likelihoods
from dlvm_jax.exact import linear_gaussian
from dlvm_jax.models import curved, density, gaussian
from dlvm_jax.models.vae import Parts
from tests.models.test_vae import MODEL, linear_decoder, small_parts


def test_annealing_reaches_the_exact_evidence_without_an_encoder():
    """Linear-Gaussian: 16 chains of 200 temperatures; within 5 errors of the chains' spread, in blocks with a rest of one."""
    _, posterior, _ = small_parts(3, (6,))
    parts = Parts(density.standard_normal(3), posterior, linear_decoder(MODEL))
    x, _ = linear_gaussian.sample(MODEL, jax.random.key(0), (7,))
    done = []
    params = {"prior": {}, "posterior": posterior.init(jax.random.key(1)), "decoder": {}}
    options = {"key": jax.random.key(2), "temperatures": 200, "block": 3, "progress": done.append}
    record = annealed_log_likelihoods(parts, params, x, **options)
    truth = linear_gaussian.log_evidence(MODEL, x)
    error = np.sqrt(1 / record.effective_samples)
    assert (np.abs(record.log_likelihoods - truth) < 5 * error).all() and (record.effective_samples > 4).all()
    assert record.acceptance.shape == (200, 7) and 0.5 < record.acceptance.mean() < 0.85
    assert done == [3, 6, 7]
    assert "acceptance 0." in record.line() and "7 examples" in record.line()


@pytest.mark.slow
def test_annealing_from_a_mixture_prior_equals_quadrature():
    _, posterior, decoder = small_parts(latent=1)
    parts = Parts(gaussian.mixture(1, 3), posterior, decoder)
    params = jax.tree.map(lambda leaf: leaf + 0.3, parts.init(jax.random.key(0)))
    x = (jax.random.uniform(jax.random.key(1), (4, 4)) < 0.5).astype(float)
    z = jnp.linspace(-10, 10, 2001)[:, None]
    log_prior = parts.prior.log_prob(params["prior"], None, z)
    log_lik = jax.vmap(lambda x: decoder.log_prob(params["decoder"], None, x[None], z))(x)
    truth = jax.nn.logsumexp(log_lik + log_prior, axis=-1) + np.log(0.01)
    record = annealed_log_likelihoods(parts, params, x, key=jax.random.key(2), chains=64, temperatures=50)
    assert (np.abs(record.log_likelihoods - truth) < 5 / np.sqrt(record.effective_samples)).all()


def test_what_cannot_be_annealed_is_refused():
    parts, x = Parts(*small_parts()), jnp.zeros((2, 4))
    params = parts.init(jax.random.key(0))
    with pytest.raises(ValueError, match="unconditional"):
        annealed_log_likelihoods(parts, params, (x, x), key=jax.random.key(0))
    weak = parts._replace(prior=parts.prior._replace(kind="bound"))
    with pytest.raises(ValueError, match="annealing from the prior needs a density of kind exact"):
        annealed_log_likelihoods(weak, params, x, key=jax.random.key(0))
    round_ = parts._replace(prior=curved.uniform_sphere(2))
    with pytest.raises(ValueError, match=r"moves through R\^M, got a prior on the sphere"):
        annealed_log_likelihoods(round_, params, x, key=jax.random.key(0))
    with pytest.raises(ValueError, match="no examples"):
        annealed_log_likelihoods(parts, params, x[:0], key=jax.random.key(0))
