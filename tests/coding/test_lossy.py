"""Streams with loss: what is kept comes back, lengths are those of the cells, and less is kept where less is asked for."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import norm

from dlvm_jax import coding, data, recipes
from dlvm_jax.coding import Loss, lossy
from dlvm_jax.coding.stack import Stack
from dlvm_jax.models.latents import Latents
from tests.coding.test_files import HIERARCHY, VAE, untrained

pytest.importorskip("constriction")
RNG = np.random.RandomState(0)
X = RNG.binomial(7, RNG.rand(60, 1, 1, 1), (60, 2, 3, 1)).astype(np.uint8)
MINE = data.from_arrays(X, levels=8)


@pytest.fixture(scope="module")
def hierarchy():
    return untrained(HIERARCHY, MINE, 0.2)


def payload(model, loss, x=X):
    return coding.payload_bits(model, coding.encode(model, x, loss=loss))


def test_cells_come_back_and_cost_what_their_own_scales_say():
    """Each number under the better of all scales: at most half a step, so 1 % longer than under its standard deviation."""
    index = np.round(RNG.randn(2000, 3) * [0.01, 3, 500]).astype(int)
    codes, codec = np.vstack([[0, 63, 7], index]), lossy._cells_codec(3)
    stack = Stack()
    codec.push(stack, codes)
    std = np.array([0.125, 3, 500])
    mass = norm.cdf((index + 0.5) / std) - norm.cdf((index - 0.5) / std)
    assert 0.99 < (stack.bits - 3 * 12) / -np.log2(mass).sum() < 1.01
    np.testing.assert_array_equal(codec.pop(stack, 2000), codes)
    assert stack.bits == 0


def test_a_stream_of_rounded_latents_gives_the_examples_of_their_cells(hierarchy):
    model = hierarchy
    for batch in (16, 100):
        stream = coding.encode(model, X, batch, Loss(step=0.5))
        found, header = coding.decode(model, stream), coding.read_header(stream)
        assert header.loss == Loss(step=0.5) and header.shape == X.shape and found.shape == X.shape
        parts = coding.lossy_of(model, header.loss, batch)
        np.testing.assert_array_equal(parts.examples(parts.codes(X)), found)


def test_fine_cells_hold_the_means_of_the_posterior_and_coarse_ones_cost_less(hierarchy):
    """Each halving of the cells costs a bit for each of the 6 latent numbers of the 60 examples, in the limit."""
    model = hierarchy
    exact = np.asarray(model.reconstruct(X))
    steps = (0.01, 0.02, 2.0, 1e3)
    streams = [coding.encode(model, X, loss=Loss(step=step)) for step in steps]
    errors = [np.abs(coding.decode(model, stream) - exact).max() for stream in streams]
    assert errors[0] < 0.3 < min(errors[2:])  # of 7 levels; the finest cells come nearer, below
    bits = [coding.payload_bits(model, stream) for stream in streams]
    assert bits[0] - bits[1] == pytest.approx(6 * 60, rel=0.1)
    assert bits[1] > bits[2] > bits[3] and bits[3] < 6 * 12 + 64  # nothing but widths and scales


def test_the_finest_cells_reach_to_where_numbers_are(hierarchy):
    """However small a step is asked for, cells are 1/256 of a deviation of the prior, and none of the numbers is cut off."""
    parts = coding.lossy_of(hierarchy, Loss(step=1e-9), 100)
    codes = parts.codes(X)
    np.testing.assert_allclose(lossy._width(codes[0]), 1 / 256)
    assert abs(codes[1:]).max() < lossy.LIMIT
    assert np.abs(parts.examples(codes) - hierarchy.reconstruct(X)).max() < 0.1


def test_layers_that_are_left_out_are_those_of_the_prior(hierarchy):
    """The decoder's own descent with the same top layers gives the same; draws of the others differ, from seed to seed."""
    model = hierarchy
    parts, params = model.model.parts, model.params
    bits = [payload(model, Loss(kept)) for kept in (1, 2, 3)]
    assert bits[0] < bits[1] < bits[2] == payload(model, Loss())
    code = coding.lossy_of(model, Loss(1), 100)
    codes = code.codes(X)
    mean, log_std = parts.top_normal(params)
    top = mean + np.exp(log_std) * codes[1:] * lossy._width(codes[0])
    latents = Latents(top.astype(np.float32), parts.noise(jax.random.key(0), len(X)).groups)
    expected = np.asarray(parts.decode(params, latents, None, 1)[0])
    stream = coding.encode(model, X, loss=Loss(1))
    found = coding.decode(model, stream)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    first, again, second = (coding.decode(model, stream, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - found).max() > 0.01 and np.abs(first - second).max() > 0.01


@pytest.mark.parametrize(
    "recipe", [dataclasses.replace(VAE, prior="mixture", components=3), VAE], ids=["under a mixture", "vae"]
)
def test_a_vae_has_one_layer_to_keep(recipe):
    model = untrained(recipe, MINE, 0.1)
    stream = coding.encode(model, X, loss=Loss(step=0.02))
    np.testing.assert_allclose(coding.decode(model, stream), model.reconstruct(X), atol=0.1)
    with pytest.raises(ValueError, match="of the 1 layers of this model"):
        coding.encode(model, X, loss=Loss(2))


@pytest.mark.parametrize(
    "recipe, loss, message",
    [
        (
            recipes.Autoregressive(hidden=(4,), likelihood="categorical"),
            Loss(),
            "Autoregressive has no codes",
        ),
        (HIERARCHY, Loss(0), "at least one is kept, got 0"),
        (HIERARCHY, Loss(step=0.0), "a positive width, got a step of 0.0"),
        (HIERARCHY, Loss(step=float("nan")), "a positive width"),
        (recipes.VQVAE(codes=5, width=4, halvings=0), Loss(1), "kept as they are"),
    ],
    ids=["no codes", "no layer", "no width", "nan", "vq-vae"],
)
def test_losses_that_a_model_does_not_have_are_refused(recipe, loss, message):
    with pytest.raises(ValueError, match=message) as error:
        coding.encode(untrained(recipe, MINE), X, loss=loss)
    assert "\n" not in str(error.value)


def test_a_stream_that_does_not_decode_to_its_codes_is_refused(hierarchy, monkeypatch):
    """Of other arithmetic the integers are right and the numbers are near; damaged integers are told."""
    stream = coding.encode(hierarchy, X, loss=Loss())
    with pytest.raises(ValueError, match="damaged"):
        coding.decode(hierarchy, stream[:-33] + stream[-32:])
    with pytest.raises(ValueError, match="give the folder of the run"):
        coding.decode(untrained(VAE, MINE), stream)
    monkeypatch.setattr(lossy, "LEAST_SCALE", 0.2)
    with pytest.raises(ValueError, match="decodes to other examples"):
        coding.decode(hierarchy, stream)
