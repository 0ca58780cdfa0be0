"""Autoregressive densities: they sum to one, see exactly what comes before, and draw from the conditionals that they score."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.models import density, spaces
from dlvm_jax.models.autoregressive import Stepper, autoregressive, stepper_from_linen
from dlvm_jax.models.logistic_mixtures import pixel_mixture
from dlvm_jax.nets import MADE, CausalTransformer, GatedPixelCNN

KEY = jax.random.key(0)
LABELS, IMAGES = jnp.eye(3), jax.random.normal(KEY, (3, 3, 3, 2))


def all_values(levels, *event):
    size = int(np.prod(event))
    return jnp.asarray(list(itertools.product(range(levels), repeat=size)), jnp.float32).reshape(-1, *event)


class Model(NamedTuple):
    density: density.Density
    net: density.Net
    law: density.OutputDistribution
    stepper: Stepper | None
    cached: density.Density | None


def flat_size(event):
    return int(np.prod(event))


def built(module, law, event, context, **options):
    shape = (1, *event) if context is None else ((1, *event), (1, *context.shape[1:]))
    net, stepper, cached = density.from_linen(module, shape), None, None
    if hasattr(module, "step"):
        stepper = stepper_from_linen(module)
        cached = autoregressive(net, law, event, stepper=stepper, **options)
    return Model(autoregressive(net, law, event, **options), net, law, stepper, cached)


def made(order=None, context=None):
    return built(MADE((40, 40), 6, 1, order=order), density.bernoulli(), (6,), context, order=order)


def pixelcnn(context=None):
    return built(GatedPixelCNN(6, 3, 3, (1, 1)), density.bernoulli(), (3, 3, 1), context)


def transformer(context=None, levels=None, width=8):
    module = CausalTransformer((3, 3, 1), width, 3, 2, 1, levels)
    return built(module, density.bernoulli(), (3, 3, 1), context)


def colours():
    """Two pixels of two channels, four levels."""
    law = pixel_mixture(4, 2, 2)
    return built(GatedPixelCNN(4, 2, 3, (2, law.width), scale=3.0), law, (2, 1, 2), None, group=2)


ORDER = (3, 0, 5, 1, 4, 2)
MODELS = {  # the model, its levels and events, the places from first to last, a context
    "MADE": (made(), 2, (6,), range(6), None),
    "MADE in another order": (made(ORDER), 2, (6,), ORDER, None),
    "MADE given a label": (made(context=LABELS), 2, (6,), range(6), LABELS),
    "PixelCNN": (pixelcnn(), 2, (3, 3, 1), range(9), None),
    "PixelCNN given a label": (pixelcnn(LABELS), 2, (3, 3, 1), range(9), LABELS),
    "PixelCNN given an image": (pixelcnn(IMAGES), 2, (3, 3, 1), range(9), IMAGES),
    "PixelCNN of colours": (colours(), 4, (2, 1, 2), range(2), None),
    "transformer": (transformer(), 2, (3, 3, 1), range(9), None),
    "transformer given a label": (transformer(LABELS), 2, (3, 3, 1), range(9), LABELS),
    "transformer of bits": (transformer(levels=2, width=12), 2, (3, 3, 1), range(9), None),
}


def moved(model):
    """Parameters away from the small ones of the start."""
    leaves, tree = jax.tree.flatten(model.net.init(KEY))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [a + 0.5 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_all_values_sum_to_one(name, x64):
    """At most 512 terms, from outputs in float32; for each of the contexts."""
    model, levels, event, _, context = MODELS[name]
    assert model.density.kind == "exact" and model.density.space == spaces.levels(levels)
    params, x = moved(model), all_values(levels, *event)
    for c in [None] if context is None else context:
        given = None if c is None else jnp.broadcast_to(c, (len(x), *c.shape))
        raw = jax.jit(model.net.apply)(params, density.join(x, given)).astype(jnp.float64)
        p = jnp.exp(model.law.log_prob(x.reshape(len(x), -1), raw.reshape(len(x), flat_size(event), -1)))
        assert p.sum() == pytest.approx(1, abs=1e-6)
        found = jax.jit(model.density.log_prob)(params, None, x, given)
        np.testing.assert_allclose(found, np.log(p), rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "transformer of bits"])
def test_an_element_depends_on_all_before_it_and_on_nothing_else(name):
    """The Jacobian of the outputs of each place: no leak, and no blind spot, in the model's order."""
    model, _, event, order, context = MODELS[name]
    params, size = moved(model), int(np.prod(event))
    given = None if context is None else context[:1]

    def outputs(x):
        raw = model.net.apply(params, density.join(x.reshape(1, *event), given))
        return raw.reshape(size, -1)

    x = jnp.asarray(
        np.random.RandomState(0).rand(40, size), jnp.float32
    )  # units of a ReLU sleep at some of them
    jacobian = np.abs(jax.jit(jax.vmap(jax.jacobian(outputs)))(x)).max((0, 2))
    rank = np.argsort(order) if len(order) == size else np.arange(size) // (size // len(order))
    before = rank[None, :] < rank[:, None]
    assert (jacobian[before] > 0).all() and (jacobian[~before] == 0).all()


def test_an_element_that_is_a_vector_of_its_own_depends_on_all_before_it_and_on_nothing_else():
    """Without derivatives: what changes, bit for bit, when one of the elements of 40 events does."""
    model, params = MODELS["transformer of bits"][0], moved(MODELS["transformer of bits"][0])
    outputs = jax.jit(lambda x: model.net.apply(params, x.reshape(40, 3, 3, 1)).reshape(40, 9))
    x = np.random.RandomState(0).randint(0, 2, (40, 9)).astype(np.float32)
    changed = np.stack([outputs(abs(x - row)) != outputs(x) for row in np.eye(9, dtype=np.float32)])
    np.testing.assert_array_equal(changed.any(1).T, np.tri(9, k=-1, dtype=bool))


@pytest.mark.parametrize("name", MODELS)
def test_draws_are_of_the_conditionals_that_are_scored(name):
    """Element by element from the same key: the outputs at the whole draw are, bit for bit, those that it was drawn from."""
    model, _, event, order, context = MODELS[name]
    params, shape = moved(model), () if context is not None else (3,)
    x, log_prob = jax.jit(lambda params: model.density.sample(params, KEY, context, shape))(params)
    np.testing.assert_array_equal(log_prob, jax.jit(model.density.log_prob)(params, None, x, context))
    raw = jax.jit(model.net.apply)(params, density.join(x, context))
    flat, raw = x.reshape(3, -1), raw.reshape(3, flat_size(event), -1)
    group = flat.shape[1] // len(order)
    for place, key in zip(order, jax.random.split(KEY, len(order)), strict=True):
        here = slice(place * group, (place + 1) * group)
        np.testing.assert_array_equal(model.law.sample(key, raw[:, here], ()), flat[:, here])


@pytest.mark.parametrize(
    "name", ["transformer", *(name for name, (model, *_) in MODELS.items() if model.cached)]
)
def test_what_is_kept_changes_no_draw_and_no_completion(name):
    """With the same key bit for bit the draws of whole passes; so are completions of what was drawn.

    Their log-densities are of two programs, whose sums may be rounded differently.
    """
    model, *_, context = MODELS[name]
    params, shape = moved(model), (10,) if context is not None else (30,)
    draw = lambda model: jax.jit(lambda params: model.sample(params, KEY, context, shape))(params)
    (x, log_prob), (naive, scored) = draw(model.cached), draw(model.density)
    np.testing.assert_array_equal(x, naive)
    np.testing.assert_allclose(log_prob, scored, rtol=3e-6)
    assert len(np.unique(np.reshape(x, (30, -1)), axis=0)) > 3
    complete = jax.jit(model.cached.complete, static_argnums=3)
    size = x.size // 30
    for known, key in ((size // 2, KEY), (size, jax.random.key(5))):
        blotted = x.reshape(30, size).at[:, known:].set(jnp.nan).reshape(x.shape)
        np.testing.assert_array_equal(complete(params, key, blotted, known, context), x)


@pytest.mark.parametrize(
    "name", ["transformer", *(name for name, (model, *_) in MODELS.items() if model.cached)]
)
def test_what_is_kept_gives_the_outputs_of_scoring(name):
    """Place by place at given values; sums in another order."""
    model, levels, event, order, context = MODELS[name]
    params, x = moved(model), all_values(levels, *event)[100:103]
    stepper = model.stepper

    @jax.jit
    def steps(params):
        place = lambda kept, place: stepper.step(params, kept, x, place)[::-1]
        return jax.lax.scan(place, stepper.start(params, x, context), jnp.arange(len(order)))[1]

    raw = jax.jit(model.net.apply)(params, density.join(x, context))
    found = jnp.moveaxis(steps(params), 0, 1).reshape(raw.shape)
    np.testing.assert_allclose(found, raw, rtol=1e-5, atol=1e-5)


def test_completions_have_their_probabilities():
    """Of the last three bits given the first three, in the model's order: counts of 20,000 within 6 standard deviations."""
    model = MODELS["MADE in another order"][0]
    params, order = moved(model), np.asarray(ORDER)
    bits = np.float32([1, 0, 1])
    x = np.zeros((8, 6), np.float32)
    x[:, order] = np.concatenate([np.tile(bits, (8, 1)), all_values(2, 3)], axis=1)
    p = np.exp(model.density.log_prob(params, None, x))
    p = p / p.sum()
    given = np.broadcast_to(np.where(np.isin(np.arange(6), order[:3]), x[0], np.nan), (20_000, 6))
    drawn = jax.jit(model.density.complete, static_argnums=3)(params, KEY, given, 3)[:, order]
    np.testing.assert_array_equal(drawn[:, :3], np.tile(bits, (20_000, 1)))
    counts = np.bincount(np.int64(drawn[:, 3:] @ np.float32([4, 2, 1])), minlength=8)
    assert (abs(counts - 20_000 * p) < 6 * np.sqrt(20_000 * p * (1 - p)) + 1).all()


@pytest.mark.parametrize("name", MODELS)
def test_draws_have_their_probabilities(name):
    """Counts of 20,000 draws within 6 standard deviations, of at most 512 values; false alarms 1e-6 a model."""
    model, levels, event, _, context = MODELS[name]
    params, x = moved(model), all_values(levels, *event)
    given = None if context is None else jnp.broadcast_to(context[1], (len(x), *context.shape[1:]))
    p = np.exp(jax.jit(model.density.log_prob)(params, None, x, given))
    one = None if context is None else context[1:2]
    drawn, _ = jax.jit(lambda params: model.density.sample(params, KEY, one, (20_000,)))(params)
    digits = levels ** np.arange(flat_size(event))[::-1]
    counts = np.bincount((drawn.reshape(20_000, -1) @ digits).astype(int), minlength=len(x))
    assert (abs(counts - 20_000 * p) < 6 * np.sqrt(20_000 * p * (1 - p)) + 4).all()


@pytest.mark.parametrize(
    "name",
    [
        "transformer given a label",
        "PixelCNN given a label",
        "PixelCNN given an image",
        "MADE given a label",
    ],
)
def test_several_draws_of_each_context_are_scored_under_their_own(name):
    """Two draws of each of three contexts at once, and each row by itself; sums in another order."""
    model, _, _, _, context = MODELS[name]
    params = moved(model)
    x, log_prob = model.density.sample(params, KEY, context, (2,))
    np.testing.assert_allclose(model.density.log_prob(params, None, x, context), log_prob, rtol=1e-5)
    for row, found in zip(x, log_prob, strict=True):
        np.testing.assert_allclose(model.density.log_prob(params, None, row, context), found, rtol=1e-5)


def test_what_does_not_fit_is_refused():
    net = density.Net(lambda key: {}, lambda params, x: x[..., None])
    with pytest.raises(ValueError, match=r"each of the 3 places of 1 elements once, from 0, got \[0, 0, 1\]"):
        autoregressive(net, density.bernoulli(), (3,), order=(0, 0, 1))
    with pytest.raises(ValueError, match="each of the 1 places of 2 elements"):
        autoregressive(net, density.bernoulli(), (3,), group=2)
    with pytest.raises(ValueError, match=r"puts out \[\*batch, 3, 5\], got an array of shape \(2, 3, 1\)"):
        autoregressive(net, density.categorical(5), (3,)).log_prob({}, None, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="its side is odd, got 4"):
        GatedPixelCNN(2, 1, 4, (1, 1)).init(KEY, jnp.zeros((1, 3, 3, 1)))
    with pytest.raises(ValueError, match="share the width evenly, got width 6 and 4 heads"):
        CausalTransformer((3,), 6, 1, 4, 1).init(KEY, jnp.zeros((1, 3)))
    net = density.Net(lambda key: {}, lambda params, x: x[..., None])
    complete = autoregressive(net, density.bernoulli(), (3,)).complete
    with pytest.raises(
        ValueError, match="from 0 to all 3 elements of an event are known, 1 at a time, got 4"
    ):
        complete({}, KEY, jnp.zeros((2, 3)), 4)
    with pytest.raises(ValueError, match="the number of known elements is an integer"):
        complete({}, KEY, jnp.zeros((2, 3)), 1.5)
    with pytest.raises(ValueError, match=r"events of shape \(3,\), got an array of shape \(2, 4\)"):
        complete({}, KEY, jnp.zeros((2, 4)), 1)
