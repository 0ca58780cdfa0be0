"""A hierarchy of three layers of bits: every law, bound and rate against the enumeration of its 2^9 latent values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import bounds, densities
from dlvm_jax.models import density, spaces
from dlvm_jax.models.joint import joint
from dlvm_jax.models.vae import vae
from dlvm_jax.nets import MLP

UNITS, PIXELS, KEY = 3, 4, jax.random.key(0)
LATENTS = np.array(list(itertools.product((0, 1), repeat=3 * UNITS)), np.float32)
IMAGES = np.array(list(itertools.product((0, 1), repeat=PIXELS)), np.float32)


def bits(inputs, count):
    """Bernoulli bits given all that is above them, by a network."""
    net = density.from_linen(MLP((5,), (count, 1)), (1, inputs))
    return density.conditional(net, density.bernoulli(), (count,))


def top(count):
    """Independent bits with learned logits."""

    def sample(params, key, context=None, shape=()):
        z = densities.bernoulli_sample(key, params, shape)
        return z, densities.bernoulli_log_prob(z, params)

    init = lambda key: jax.random.normal(key, (count,))
    log_prob = lambda params, key, z, context=None: densities.bernoulli_log_prob(z, params)
    return density.Density(init, sample, log_prob, "exact", space=spaces.levels(2))


def chain(inputs):
    """p(z3 | c) p(z2 | z3, c) p(z1 | z3, z2, c) over [z3, z2, z1]; without a context where `inputs` is 0."""
    first = bits(inputs, UNITS) if inputs else top(UNITS)
    two = joint(first, bits(inputs + UNITS, UNITS), UNITS)
    return joint(two, bits(inputs + 2 * UNITS, UNITS), 2 * UNITS)


@pytest.fixture(scope="module")
def model():
    """The model, moved parameters, and of all images and latents log p(z, x) and log q(z | x), [16, 512]."""
    prior, posterior, decoder = chain(0), chain(PIXELS), bits(3 * UNITS, PIXELS)
    whole = vae(prior, posterior._replace(reparameterised=True), decoder)  # it is not trained here
    params = jax.tree.map(lambda a: 1.5 * a, whole.init(KEY))
    log_p_z = prior.log_prob(params["prior"], None, LATENTS, None)
    z = jnp.broadcast_to(LATENTS, (len(IMAGES), *LATENTS.shape)).reshape(-1, 3 * UNITS)
    x = jnp.repeat(IMAGES, len(LATENTS), axis=0)
    log_lik = decoder.log_prob(params["decoder"], None, x, z).reshape(len(IMAGES), -1)
    log_q = posterior.log_prob(params["posterior"], None, z, x).reshape(len(IMAGES), -1)
    return whole, params, np.asarray(log_p_z + log_lik, float), np.asarray(log_q, float)


def test_all_laws_sum_to_one(model):
    """Float32 terms, at most 8,192 of them."""
    _, _, log_joint, log_q = model
    np.testing.assert_allclose(np.exp(log_q).sum(1), 1, atol=1e-5)
    assert np.exp(log_joint).sum() == pytest.approx(1, abs=1e-5)


def test_bounds_by_draws_are_those_of_the_enumeration(model):
    """The ELBO, and the bound of two draws by all pairs; means of 20,000 within 5 errors, false alarms 2e-5."""
    whole, params, log_joint, log_q = model
    log_w, q = log_joint - log_q, np.exp(log_q)
    elbo = (q * log_w).sum(1)
    pairs = np.logaddexp(log_w[:, :, None], log_w[:, None]) - np.log(2)
    two = np.einsum("na,nb,nab->n", q, q, pairs)
    evidence = np.log(np.exp(log_joint).sum(1))
    assert (elbo < two).all() and (two < evidence).all()
    draw = jax.jit(jax.vmap(lambda key: whole.log_prob(params, key, IMAGES)))
    drawn = draw(jax.random.split(KEY, 20_000))
    for found, exact in (
        (drawn, elbo),
        (bounds.importance_weighted(drawn.reshape(2, -1, len(IMAGES))), two),
    ):
        error = np.asarray(found).std(0) / np.sqrt(len(found))
        assert (abs(found.mean(0) - exact) < 5 * error).all()


def test_the_kl_of_the_layers_is_that_of_the_enumeration(model):
    """Reconstruction and KL in the mean of 20,000 draws within 5 errors, false alarms 2e-5."""
    whole, params, log_joint, log_q = model
    prior = np.asarray(chain(0).log_prob(params["prior"], None, LATENTS, None), float)
    q = np.exp(log_q)
    kl = (q * (log_q - prior)).sum(1)
    reconstruction = (q * (log_joint - prior)).sum(1)
    found = jax.jit(jax.vmap(lambda key: whole.terms(params, key, IMAGES)))(jax.random.split(KEY, 20_000))
    for name, exact in (("kl", kl), ("reconstruction", reconstruction)):
        values = np.asarray(found[name])
        assert (abs(values.mean(0) - exact) < 5 * values.std(0) / np.sqrt(len(values))).all(), name


def test_samples_have_the_probabilities_of_the_enumeration(model):
    """Counts of 20,000 images within 5 standard deviations, false alarms 1e-5."""
    whole, params, log_joint, _ = model
    p = np.exp(log_joint).sum(1)
    x, _ = whole.sample(params, jax.random.key(5), shape=(20_000,))
    counts = np.bincount((x @ np.array([8, 4, 2, 1])).astype(int), minlength=16)
    assert (abs(counts - 20_000 * p) < 5 * np.sqrt(20_000 * p * (1 - p)) + 1).all()
