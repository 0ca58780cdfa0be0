"""Streams of examples: all come back, their length is that of the likelihood, and nothing else is ever returned."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dlvm_jax import coding, data, recipes, train
from dlvm_jax.coding import files
from dlvm_jax.train import TrainConfig
from dlvm_jax.train.fitted import Fitted

pytest.importorskip("constriction")
RNG = np.random.RandomState(0)
MINE = data.from_arrays(RNG.binomial(7, [[0.1, 0.5, 0.9]], (60, 2, 3)).astype(np.uint8)[..., None], levels=8)
COLOURS = data.from_arrays(RNG.binomial(7, 0.3, (60, 2, 2, 2)).astype(np.uint8), levels=8)
SQUARES = data.from_arrays(RNG.binomial(7, 0.3, (60, 4, 4, 1)).astype(np.uint8), levels=8)
BITS = data.from_arrays((RNG.rand(60, 2, 2, 1) < 0.3).astype(np.uint8), levels=2)
REALS = data.from_arrays(RNG.randn(60, 3))
HIERARCHY = recipes.Hierarchical(
    cells="dense",
    latent_dim=2,
    groups=(2,),
    latents=(2,),
    widths=(8,),
    hidden=(8,),
    likelihood="categorical",
)
VAE = recipes.VAE(latent_dim=2, hidden=(8,), likelihood="categorical")
MODELS = {
    "vae": (VAE, MINE),
    "made": (recipes.Autoregressive(hidden=(8,), likelihood="categorical"), MINE),
    "pixelcnn": (recipes.Autoregressive(net="pixelcnn", width=4, depth=1, kernel=3), COLOURS),
    "transformer": (
        recipes.Autoregressive(net="transformer", width=4, depth=1, heads=1, likelihood="categorical"),
        MINE,
    ),
    "vq-vae": (recipes.VQVAE(codes=5, width=4, depth=1, halvings=1, likelihood="categorical"), SQUARES),
    "vq-vae by gradient": (
        recipes.VQVAE(quantiser="gradient", codes=5, width=4, depth=1, halvings=1, likelihood="categorical"),
        SQUARES,
    ),
    "vamp": (dataclasses.replace(VAE, prior="vamp", components=3), MINE),
    "mixture": (dataclasses.replace(VAE, prior="mixture", components=3), MINE),
    "pixel vae": (dataclasses.replace(VAE, pixel_layers=1), MINE),
    "vae of bits": (recipes.VAE(latent_dim=2, hidden=(8,)), BITS),
    "hierarchy": (HIERARCHY, MINE),
    "hierarchy under a mixture": (dataclasses.replace(HIERARCHY, prior="vamp", components=3), MINE),
    "hierarchy with state": (
        dataclasses.replace(
            HIERARCHY, cells="vdvae", groups=(1,), latents=(1,), widths=(4,), hidden=(2,), spectral=0.1
        ),
        MINE,
    ),
}


def untrained(recipe, mine, by=0.3):
    """A model with parameters away from those of the start."""
    constants = recipe.constants(mine, 0)
    model = recipe.build(mine.spec, constants)
    noisy = lambda a: a + by * jax.random.normal(jax.random.key(a.size), a.shape)
    params = jax.jit(lambda key: jax.tree.map(noisy, model.params(key)))(jax.random.key(0))
    return Fitted(recipe, mine.spec, constants, model, TrainConfig(), (params,), 0, Path())


@pytest.fixture(scope="module")
def fitted():
    made = {}

    def of(name):
        if name not in made:
            by = 0.1 if "hierarchy" in name else 0.3  # posteriors of several layers soon lie beyond all cells
            made[name] = untrained(*MODELS[name], by)
        return made[name]

    return of


@pytest.mark.parametrize("name", MODELS)
def test_examples_come_back_with_any_batch(name, fitted):
    model, x = fitted(name), np.asarray(MODELS[name][1].train)[:40]
    for batch in (16, 1000):
        stream = coding.encode(model, x, batch)
        np.testing.assert_array_equal(coding.decode(model, stream), x)
        header = coding.read_header(stream)
        assert header.shape == x.shape and sum(header.sizes()) == len(x) and max(header.sizes()) <= batch


def test_a_stream_is_as_long_as_the_exact_likelihood(fitted):
    model, x = fitted("made"), RNG.binomial(7, [[0.1, 0.5, 0.9]], (2000, 2, 3)).astype(np.uint8)[..., None]
    bits = coding.payload_bits(model, coding.encode(model, x))
    exact = -float(np.sum(np.asarray(model.log_prob(None, x), np.float64))) / np.log(2)
    assert abs(bits - exact) < 64 + 2e-5 * exact  # log-densities are of float32, frequencies of 24 bits


@pytest.mark.parametrize(
    "name", ["vae", "vamp", "mixture", "pixel vae", "hierarchy", "hierarchy under a mixture"]
)
def test_a_stream_by_bits_back_is_as_long_as_the_bound(name, fitted):
    """Its latents are draws of the posterior, so it is a draw of the bound: within 6 standard errors (false alarms 2e-9).

    The cells add less than 0.1 %: half of 5 latent numbers times 2 * 2^14 / 2^24 of a bit, and 24 bits a symbol.
    """
    model, x = fitted(name), RNG.binomial(7, [[0.1, 0.5, 0.9]], (1000, 2, 3)).astype(np.uint8)[..., None]
    bits = coding.payload_bits(model, coding.encode(model, x))
    keys = jax.random.split(jax.random.key(0), 8)
    each = np.stack([np.asarray(model.log_prob(key, x), np.float64) for key in keys]) / -np.log(2)
    error = np.sqrt(each.var(0, ddof=1).sum() * (1 + 1 / 8))
    assert abs(bits - each.mean(0).sum()) < 64 + 6 * error + 1e-3 * each.mean(0).sum()


def test_images_of_eight_bits_are_coded_within_a_percent_of_the_bound():
    x = (RNG.rand(300, 3, 3, 1) ** 2 * 256).astype(np.uint8)
    model = untrained(recipes.VAE(latent_dim=2, hidden=(8,)), data.from_arrays(x, levels=256), 0.1)
    stream = coding.encode(model, x)
    np.testing.assert_array_equal(coding.decode(model, stream), x)
    keys = jax.random.split(jax.random.key(0), 8)
    bound = np.mean([np.asarray(model.log_prob(key, x), np.float64).sum() for key in keys]) / -np.log(2)
    assert coding.payload_bits(model, stream) == pytest.approx(bound, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vq-vae by gradient", "vq-vae"])
def test_a_stream_by_codes_is_as_long_as_their_bound_and_without_what_they_leave_open_as_their_prior(
    name, fitted
):
    model, x = fitted(name), np.asarray(SQUARES.train)
    terms = model.model.density.terms(model.params, None, x.astype(np.float32))
    total = lambda name: float(np.asarray(terms[name], np.float64).sum()) / np.log(2)
    codes, rest = total("kl"), total("reconstruction")
    whole, lossy = coding.encode(model, x, 16), coding.encode(model, x, 16, loss=coding.Loss())
    assert abs(coding.payload_bits(model, whole) - (codes - rest)) < 64 + 2e-5 * (codes - rest)
    assert abs(coding.payload_bits(model, lossy) - codes) < 64 + 2e-5 * codes
    np.testing.assert_array_equal(coding.decode(model, whole), x)
    means = model.model.decode(model.params, model.encode(x))
    np.testing.assert_allclose(coding.decode(model, lossy), means, rtol=1e-5)


def with_checksum(body):
    return bytes(body) + hashlib.sha256(body).digest()


def test_a_thousand_damaged_streams_are_refused(fitted):
    """A bit turned in 600 places, an end cut off in 300, a piece lost in the middle of 50, bytes after the end of 50."""
    model = fitted("made")
    stream = coding.encode(model, np.asarray(MINE.test))
    damaged = []
    for place in RNG.permutation(8 * len(stream))[:600]:
        turned = bytearray(stream)
        turned[place // 8] ^= 1 << (place % 8)
        damaged.append(bytes(turned))
    damaged += [stream[:cut] for cut in np.linspace(0, len(stream) - 1, 300).astype(int)]
    damaged += [stream[:start] + stream[start + 1 :] for start in RNG.randint(0, len(stream), 50)]
    damaged += [stream + RNG.bytes(1 + extra) for extra in range(50)]
    assert len(damaged) == 1000
    for one in damaged:
        with pytest.raises(ValueError, match="damaged") as error:
            coding.decode(model, one)
        assert "\n" not in str(error.value)


def test_other_words_under_their_own_checksum_are_refused(fitted):
    """As of a program that computes other numbers: a bit turned, words lost or added, all zero."""
    model = fitted("made")
    body = coding.encode(model, np.asarray(MINE.test))[:-32]
    words = len(body) - 4 * (coding.payload_bits(model, with_checksum(body)) // 32)
    others = [
        body[:-4],
        body[:-8],
        body[:words],
        body + bytes(4),
        body + b"word",
        body[:words] + bytes(len(body) - words),
    ]
    for place in RNG.permutation(np.arange(8 * words, 8 * len(body)))[:10]:
        turned = bytearray(body)
        turned[place // 8] ^= 1 << (place % 8)
        others.append(turned)
    for other in others:
        with pytest.raises(ValueError, match=r"decodes to other examples|Invalid compressed data") as error:
            coding.decode(model, with_checksum(other))
        assert "\n" not in str(error.value)


def test_another_model_and_other_arithmetic_are_refused(fitted, monkeypatch):
    model, other, x = fitted("vae"), fitted("made"), np.asarray(MINE.test)
    stream = coding.encode(model, x)
    with pytest.raises(ValueError, match="give the folder of the run that it was made with"):
        coding.decode(other, stream)
    moved = dataclasses.replace(
        model, per_seed=tuple(jax.tree.map(lambda leaf: leaf * 1.001, params) for params in model.per_seed)
    )
    with pytest.raises(ValueError, match="give the folder"):
        coding.decode(moved, stream)
    monkeypatch.setattr(files, "_model_digest", lambda fitted: coding.read_header(stream).model)
    with pytest.raises(ValueError, match="decodes to other examples than were encoded"):
        coding.decode(moved, stream)


@pytest.mark.slow
def test_another_process_decodes(tmp_path):
    model = train.fit(VAE, MINE, steps=20, batch_size=20, progress=False, out=tmp_path / "run")
    x = np.asarray(MINE.test)
    (tmp_path / "stream").write_bytes(coding.encode(model, x))
    code = f"""
import numpy as np
from pathlib import Path
from dlvm_jax import coding, train
x = coding.decode(train.load({str(model.folder)!r}), Path({str(tmp_path / "stream")!r}).read_bytes())
np.save({str(tmp_path / "x.npy")!r}, x)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x)


@pytest.mark.parametrize(
    "recipe, mine, message",
    [
        (recipes.VAE(hidden=(4,), latent_dim=2), REALS, "only levels are compressed"),
        (dataclasses.replace(VAE, prior="flow"), MINE, "a prior that is one or a mixture"),
        (dataclasses.replace(HIERARCHY, inference="bottom-up"), MINE, "inferred from the top down"),
        (recipes.Autoregressive(hidden=(4,), orders=2, likelihood="categorical"), MINE, "of one order"),
    ],
    ids=["reals", "flow", "bottom-up", "orders"],
)
def test_models_that_cannot_code_are_refused(recipe, mine, message):
    with pytest.raises(ValueError, match=message) as error:
        coding.encode(untrained(recipe, mine), np.asarray(mine.test))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "x, options, message",
    [
        (np.full((2, 2, 3, 1), 8), {}, "example 0 of x has the value 8"),
        (np.zeros((2, 3, 2, 1)), {}, r"examples \[N, 2, 3, 1\], got shape \(2, 3, 2, 1\)"),
        (np.zeros((0, 2, 3, 1)), {}, r"got shape \(0, 2, 3, 1\)"),
        (np.zeros((2, 2, 3, 1)), {"batch": 0}, "at least one example at once"),
    ],
    ids=["a level too high", "another shape", "no examples", "no batch"],
)
def test_bad_input_is_refused(x, options, message, fitted):
    with pytest.raises(ValueError, match=message):
        coding.encode(fitted("made"), x, **options)
    with pytest.raises(ValueError, match="this is no stream"):
        coding.read_header(b"PK\x03\x04" * 20)
