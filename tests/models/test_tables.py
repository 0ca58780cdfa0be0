"""Tables of discrete densities: products of their entries are the density, rows sum to 1, and no table looks ahead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import nets
from dlvm_jax.models import density, logistic_mixtures, tables
from dlvm_jax.models.autoregressive import autoregressive, stepper_from_linen
from dlvm_jax.models.pixel_decoder import pixel_decoder

EVENT = (2, 3, 2)
LAWS = {
    "bits": density.bernoulli(),
    "categorical": density.categorical(5),
    "logistic": density.discretised_logistic(6),
    "normal": density.discretised_normal(6),
    "mixture": logistic_mixtures.logistic_mixture(6, 2),
    "pixels": logistic_mixtures.pixel_mixture(6, 2, 2),
}


def decoder(law):
    net = density.from_linen(nets.MLP((4,), (*EVENT, law.width)), (1, 3))
    return density.conditional(net, law, EVENT), jax.random.normal(jax.random.key(2), (4, 3))


@functools.cache
def pixelcnn(law):
    module = nets.GatedPixelCNN(4, 1, 3, (2, law.width))
    net = density.from_linen(module, (1, *EVENT))
    return autoregressive(net, law, EVENT, group=2, stepper=stepper_from_linen(module)), None


def decoder_of_pixels(law):
    """Of PixelVAE."""
    features = density.from_linen(nets.MLP((4,), (*EVENT[:2], 3)), (1, 3))
    pixels = nets.GatedPixelCNN(4, 1, 3, (2, law.width))
    return pixel_decoder(features, pixels, law, EVENT, 3), jax.random.normal(jax.random.key(2), (4, 3))


@functools.cache
def moved(model):
    """Parameters away from those of the start."""
    noisy = lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    return jax.jit(lambda key: jax.tree.map(noisy, model.init(key)))(jax.random.key(0))


@pytest.mark.parametrize("make", [decoder_of_pixels, decoder, pixelcnn])
@pytest.mark.parametrize("name", ["pixels", *list(LAWS)[:-1]])
def test_tables_are_the_factors_of_the_density(name, make):
    law = LAWS[name]
    model, context = make(law)
    params = moved(model)
    rng = np.random.RandomState(0)
    x = rng.randint(0, law.space.levels, (4, *EVENT)).astype(np.float32)
    log_probs = jax.jit(lambda x: model.tables.log_probs(params, x, context))
    found = np.asarray(log_probs(x))
    assert found.shape == (4, 12, law.space.levels)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
    each = np.take_along_axis(found, x.reshape(4, 12, 1).astype(int), -1)
    np.testing.assert_allclose(
        each.sum((1, 2)), model.log_prob(params, None, jnp.asarray(x), context), rtol=1e-5
    )

    assert isinstance(hash(model), int)  # programs are kept by their density
    steps = [np.array(step) for step in model.tables.steps]
    np.testing.assert_array_equal(np.sort(np.concatenate(steps)), np.arange(12))
    assert (
        len(steps) == (12 if name == "pixels" else 6)
        if make is not decoder
        else (2 if name == "pixels" else 1)
    )
    for number, step in enumerate(steps):
        changed = x.reshape(4, 12).copy()
        later = np.concatenate(steps[number:])
        changed[:, later] = rng.randint(0, law.space.levels, (4, len(later)))
        again = np.asarray(log_probs(changed.reshape(x.shape)))
        np.testing.assert_array_equal(again[:, step], found[:, step])  # to the last bit


@pytest.mark.parametrize("make", [pixelcnn, decoder_of_pixels])
@pytest.mark.parametrize("name", ["categorical", "pixels"])
def test_a_stepper_gives_the_tables_step_by_step_from_what_came_before(name, make):
    law = LAWS[name]
    model, context = make(law)
    params, x = moved(model), np.random.RandomState(0).randint(0, law.space.levels, (4, *EVENT))
    whole = np.asarray(model.tables.log_probs(params, x.astype(np.float32), context))
    start, step = (jax.jit(f) for f in model.tables.stepper)
    seen = np.zeros((4, *EVENT), np.float32)
    kept = start(params, seen, context)
    for number, places in enumerate(map(np.array, model.tables.steps)):
        found, kept = step(params, kept, seen.copy(), number)
        np.testing.assert_allclose(found, whole[:, places], rtol=1e-4, atol=1e-5)
        seen.reshape(4, 12)[:, places] = x.reshape(4, 12)[:, places]


@pytest.mark.parametrize("name", LAWS)
def test_a_table_holds_the_law_of_each_level(name):
    """Of one pixel of two channels, the second given the first."""
    law = LAWS[name]
    outputs = jnp.asarray(np.random.RandomState(1).randn(2, law.width), jnp.float32)
    of_pixel = lambda x: law.log_prob(jnp.asarray(x, jnp.float32), outputs).sum()
    levels = range(law.space.levels)
    joint = np.exp([[of_pixel([a, b]) for b in levels] for a in levels])
    for first in (0, law.space.levels - 1):
        found = np.exp(tables.tables_of(law, jnp.asarray([first, 0.0]), outputs))
        np.testing.assert_allclose(found[0], joint.sum(1), atol=1e-5)
        np.testing.assert_allclose(found[1], joint[first] / joint[first].sum(), atol=1e-5)


def test_real_values_have_no_tables():
    assert decoder(density.normal())[0].tables is None
    assert pixelcnn(density.normal())[0].tables is None
