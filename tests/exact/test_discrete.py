"""The discrete model by enumeration in NumPy, and its samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact import discrete
from tests.functional.common import checks


@checks(discrete.all_binary, discrete.log_joint, discrete.log_evidence, discrete.posterior)
def test_discrete_model_is_normalised_and_obeys_bayes(dtype):
    """256 outcomes of 8 bits: 1e-6 is ten float32 roundings of one."""
    tolerance = {jnp.float32: 1e-6, jnp.float64: 1e-12}[dtype]
    rng = np.random.RandomState(3)
    model = discrete.DiscreteMixture(
        jnp.asarray(rng.randn(3), dtype), jnp.asarray(2 * rng.randn(3, 8), dtype)
    )
    x = discrete.all_binary(8)
    assert len({tuple(row) for row in x.tolist()}) == 256
    log_p, log_joint = discrete.log_evidence(model, x), discrete.log_joint(model, x)
    assert float(jnp.exp(log_p).sum()) == pytest.approx(1, abs=tolerance)
    assert float(jnp.exp(log_joint).sum()) == pytest.approx(1, abs=tolerance)
    # Bayes' rule from probabilities, in NumPy
    bits, prior = np.asarray(x), np.exp(log_softmax(model.prior_logits))
    on = 1 / (1 + np.exp(-np.asarray(model.logits, np.float64)))
    joint = prior * np.where(bits[:, None, :] == 1, on, 1 - on).prod(-1)
    np.testing.assert_allclose(jnp.exp(log_joint), joint, rtol=20 * tolerance)
    np.testing.assert_allclose(jnp.exp(log_p), joint.sum(-1), rtol=20 * tolerance)
    expected = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(jnp.exp(discrete.posterior(model, x)), expected, rtol=20 * tolerance)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum())


@checks(discrete.sample)
def test_discrete_samples_of_data_and_latent_pass_chi_square():
    """48 outcomes of (x, z); false alarm 1e-4 for a fresh seed."""
    rng = np.random.RandomState(3)
    model = discrete.DiscreteMixture(jnp.asarray(rng.randn(3)), jnp.asarray(rng.randn(3, 4)))
    x, z = discrete.sample(model, jax.random.key(0), (50_000,))
    assert x.shape == (50_000, 4) and z.shape == (50_000,)
    codes = (np.asarray(x) @ [8, 4, 2, 1]).astype(int) * 3 + np.asarray(z)
    counts = np.bincount(codes, minlength=48)
    expected = np.exp(np.asarray(discrete.log_joint(model, discrete.all_binary(4)), np.float64)).ravel()
    assert expected.min() * 50_000 > 5
    assert scipy.stats.chisquare(counts, 50_000 * expected / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("dim", [0, -1, 21])
def test_enumeration_of_too_few_or_too_many_bits_is_refused(dim):
    with pytest.raises(ValueError, match=f"1 to 20 binary dimensions, got {dim}"):
        discrete.all_binary(dim)
