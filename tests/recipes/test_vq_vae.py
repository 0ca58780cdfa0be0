"""VQ-VAE recipes: images and vectors by every quantiser, training with a book that follows, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, evaluate, recipes, train
from dlvm_jax.data.dataset import of_vectors

KEY = jax.random.key(0)
BITS = data.from_arrays((np.random.RandomState(0).rand(60, 4, 8, 1) < 0.4).astype(np.uint8))
ROWS = data.from_arrays(np.random.RandomState(1).randn(60, 5).astype(np.float32))
LEVELS = data.from_arrays(np.random.RandomState(2).randint(0, 8, (60, 4, 4, 2)).astype(np.uint8), levels=8)
SMALL = {"codes": 5, "code_dim": 3, "width": 4, "depth": 1}
TINY = {"batch_size": 8, "progress": False, "schedule": "constant", "warm_up": 0, "eval_every": 3}


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "source, settings, grid",
    [
        (ROWS, SMALL | {"quantiser": "gradient", "places": 3, "likelihood": "shared-normal"}, (3,)),
        (BITS, SMALL | {"maps": 3}, (1, 6, 1)),
        (
            LEVELS,
            {"quantiser": "fsq", "levels": (2, 3), "width": 4, "halvings": 1, "likelihood": "pixel-mixture"},
            (2, 2, 1),
        ),
        (ROWS, SMALL | {"gradient": "rotation", "depth": 0}, (8,)),
        (LEVELS, SMALL | {"halvings": 0}, (4, 4, 1)),
    ],
    ids=["rows", "bits", "fixed grid", "rotation", "no halving"],
)
@pytest.mark.slow
def test_it_is_fitted_and_loaded(source, settings, grid, tmp_path):
    recipe = recipes.VQVAE(**settings)
    assert recipes.from_json(recipe.as_json()) == recipe and recipe.grid(source.spec) == grid
    fitted = train.fit(recipe, source, out=tmp_path / "run", steps=3, **TINY)
    again = train.load(tmp_path / "run")
    assert_same(again.per_seed, fitted.per_seed)
    x = np.asarray(source.test[:3])
    codes, levels = again.encode(x), again.model.parts.quantiser.levels
    assert codes.shape == (3, *grid) and np.isin(codes, np.arange(levels)).all()
    assert again.decode(codes).shape == x.shape
    np.testing.assert_array_equal(again.decode(codes), again.reconstruct(x))
    assert again.sample(KEY, 2).shape == (2, *source.spec.event_shape)
    record = evaluate.log_likelihood(again, source.test, samples=1, progress=False)
    assert record.estimator == "bound" and record.kl == pytest.approx(
        np.prod(grid) * np.log(levels), rel=1e-5
    )
    moved = jax.tree.map(lambda a, b: (a != b).any(), fitted.params, again.model.params(KEY))
    assert all(jax.tree.leaves(moved))


def test_sequences_are_coded_and_the_decoder_is_given_the_label(tmp_path):
    """The codes are those of the sequence alone; what is decoded depends on the label, what is drawn too."""
    rng = np.random.RandomState(3)
    x, labels = rng.randn(40, 8, 3).astype(np.float32), np.arange(40, dtype=np.int32) % 3
    protocol = data.Protocol("own", (30, 5, 5), "none", 0, "", "here")
    cuts = lambda array: (array[:30], array[30:35], array[35:])
    source = of_vectors("sequences", cuts(x), protocol, cuts(labels))
    recipe = recipes.VQVAE(
        **SMALL | {"depth": 0, "maps": 2},
        halvings=1,
        condition="label",
        likelihood="shared-normal",
        standardise=True,
    )
    assert recipe.grid(source.spec) == (8,)
    fitted = train.fit(recipe, source, out=tmp_path / "run", steps=3, **TINY)
    encoder = fitted.model.parts.encoder.apply

    @jax.jit
    def outcomes(x, labels):
        codes = fitted.encode((x, labels))
        decoded = jnp.stack([fitted.decode(codes, given=jnp.full(len(x), who)) for who in range(3)])
        z = [encoder(fitted.params[0]["encoder"], y) for y in (x, jnp.array([3.0, 0.5, 9.0]) * x + 7)]
        drawn = fitted.sample(KEY, 2, given=jnp.arange(3))
        return codes, fitted.encode((x, 0 * labels)), decoded, fitted.reconstruct((x, labels)), drawn, z

    codes, same, decoded, own, drawn, z = outcomes(source.test, source.test_labels)
    assert codes.shape == (5, 8) and drawn.shape == (2, 3, 8, 3) and decoded.shape == (3, 5, 8, 3)
    np.testing.assert_array_equal(codes, same)
    assert (decoded[0] != decoded[1]).any()
    np.testing.assert_allclose(own, decoded[source.test_labels, np.arange(5)], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(*z, atol=0.01)  # mean and size of a channel are not seen
    with pytest.raises(
        ValueError, match="sequences of 8 cannot be halved 4 times without a rest; use halvings=3"
    ):
        recipes.VQVAE(halvings=4).build(source.spec, {})


@pytest.mark.slow
def test_a_book_that_follows_goes_on_bit_for_bit(tmp_path):
    """Six steps at once, or three and three; codes, counts and sums are where they would be, and have moved since."""
    recipe = recipes.VQVAE(**SMALL)
    whole = train.fit(recipe, BITS, out=tmp_path / "whole", steps=6, **TINY)
    first = train.fit(recipe, BITS, out=tmp_path / "parts", steps=3, **TINY)
    parts = train.fit(recipe, BITS, out=tmp_path / "parts", steps=6, resume=True, **TINY)
    last = lambda name: (tmp_path / name / "metrics.jsonl").read_bytes()
    assert last("whole") == last("parts")
    assert (whole.step, first.step <= 3) == (parts.step, True)
    assert_same(whole.params, parts.params)


def test_what_does_not_fit_is_refused():
    odd = data.from_arrays((np.random.RandomState(0).rand(50, 6, 10, 1) < 0.4).astype(np.uint8))
    for settings, source, message in (
        ({}, odd, "images of 6 x 10 cannot be halved 2 times without a rest; use halvings=1"),
        ({"halvings": 3}, BITS, "images of 4 x 8 cannot be halved 3 times without a rest; use halvings=2"),
        ({"quantiser": "fsq", "decay": 0.5}, BITS, "decay=0.5 belongs to quantiser averages"),
        ({"quantiser": "gradient", "restart": 0.0}, BITS, "restart=0.0 belongs to quantiser averages"),
        ({"levels": (3, 3)}, BITS, "belongs to quantiser fsq"),
        ({"quantiser": "fsq", "levels": ()}, BITS, "levels has a number for each number of a code, got none"),
        ({"quantiser": "fsq", "levels": (4, 1)}, BITS, "levels must be at least 2"),
        ({"decay": 1.0}, BITS, "decay must be at least 0 and below 1"),
        ({"codes": 1}, BITS, "codes must be at least 2"),
        ({"gradient": "gumbel"}, BITS, "unknown gradient 'gumbel'"),
        ({"condition": "quadrants-1"}, BITS, "unknown condition 'quadrants-1'"),
        ({"condition": "label"}, BITS, "condition='label' needs labels"),
        (
            {"standardise": True},
            data.from_arrays(np.eye(20)[:, :6]),
            "standardise is of images and sequences",
        ),
        ({"likelihood": "normal"}, BITS, "a normal likelihood needs real data"),
    ):
        with pytest.raises(ValueError, match=message):
            recipes.VQVAE(**settings).build(source.spec, {})
    fitted = recipes.VQVAE(**SMALL).build(BITS.spec, {})
    with pytest.raises(
        ValueError, match="the density is of levels 0 to 4, and example 0 of the codes has the value 7"
    ):
        fitted.decode(fitted.params(KEY), np.full((1, 1, 2, 1), 7))
