"""Mixtures of discretised logistics as outputs of a network: they are distributions, and their means are those of samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.models import density, logistic_mixtures, spaces

RNG = np.random.RandomState(0)


def test_each_element_sums_to_one():
    """Over all values of a pixel, under outputs of a network; six roundings of float32."""
    family = logistic_mixtures.logistic_mixture(7, 3)
    outputs = jnp.asarray(RNG.randn(4, 1, family.width), jnp.float32)
    values = jnp.arange(7.0)[:, None, None] * jnp.ones((7, 4, 1))
    total = jnp.exp(family.log_prob(values, outputs)).sum(0)
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_the_mean_of_an_element_is_that_of_its_levels():
    """Narrow components far from the ends, by enumeration: bins of width one are narrow beside them."""
    family = logistic_mixtures.logistic_mixture(256, 3)
    outputs = jnp.asarray(0.3 * RNG.randn(5, 1, family.width), jnp.float32).at[..., 6:].add(-2.5)
    levels = jnp.broadcast_to(jnp.arange(256.0)[:, None, None], (256, 5, 1))
    p = np.exp(family.log_prob(levels, jnp.broadcast_to(outputs, (256, *outputs.shape))))
    np.testing.assert_allclose(family.mean(outputs)[:, 0], np.arange(256.0) @ p, atol=0.01)


def test_pixels_sum_to_one_and_their_channels_are_not_independent():
    """Two pixels of two channels by enumeration of 4^4 images; 256 terms of float32."""
    family = logistic_mixtures.pixel_mixture(4, 3, 2)
    outputs = jnp.asarray(2 * RNG.randn(4, family.width), jnp.float32)
    images = jnp.asarray(list(itertools.product(range(4), repeat=4)), jnp.float32)
    table = np.exp(family.log_prob(images, jnp.broadcast_to(outputs, (256, 4, family.width)))).reshape(
        4, 4, 4, 4
    )
    np.testing.assert_allclose(table.sum(), 1, atol=1e-5)
    pixel = table.sum((2, 3))  # the first: its two channels
    assert abs(pixel - np.outer(pixel.sum(1), pixel.sum(0))).max() > 0.01
    other = np.einsum("abcd->ac", table)  # one channel of each pixel
    np.testing.assert_allclose(other, np.outer(other.sum(1), other.sum(0)), atol=1e-6)


def test_a_density_of_images_has_its_mean_and_support():
    """Narrow components far from the ends: the mean of 4,000 draws within 5 standard errors, false alarms 4e-6."""
    family = logistic_mixtures.pixel_mixture(256, 2, 3)
    outputs = jnp.asarray(0.3 * RNG.randn(1, 2, 2, 3, family.width), jnp.float32).at[..., 4:6].add(-2.5)
    net = density.Net(lambda key: {}, lambda params, z: outputs)
    model = density.conditional(net, family, (2, 2, 3))
    assert model.space == spaces.levels(256)
    x, log_prob = model.sample({}, jax.random.key(0), None, (4000,))
    assert x.shape == (4000, 1, 2, 2, 3) and x.min() >= 0 and x.max() <= 255
    np.testing.assert_allclose(log_prob, model.log_prob({}, None, x, None), rtol=1e-5)
    error = np.asarray(x.mean(0) - model.mean({}, None)) / (np.asarray(x.std(0)) / np.sqrt(4000))
    assert abs(error).max() < 5, error
