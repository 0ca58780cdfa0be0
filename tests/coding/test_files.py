"""Streams of examples: all come back, their length is that of the likelihood, and nothing else is ever returned."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from dlvm_jax import coding, data, recipes, train
from dlvm_jax.coding import files

pytest.importorskip("constriction")
RNG = np.random.RandomState(0)
MINE = data.from_arrays(RNG.binomial(7, [[0.1, 0.5, 0.9]], (60, 2, 3)).astype(np.uint8)[..., None], levels=8)
BITS = data.from_arrays((RNG.rand(60, 2, 2, 1) < 0.3).astype(np.uint8), levels=2)
REALS = data.from_arrays(RNG.randn(60, 3))
MODELS = {
    "vae": (recipes.VAE(latent_dim=2, hidden=(8,), likelihood="categorical"), MINE),
    "made": (recipes.Autoregressive(hidden=(8,), likelihood="categorical"), MINE),
    "pixelcnn": (recipes.Autoregressive(net="pixelcnn", width=4, depth=1, kernel=3), MINE),
    "vae of bits": (recipes.VAE(latent_dim=2, hidden=(8,)), BITS),
    "hierarchy": (
        recipes.Hierarchical(
            cells="dense",
            latent_dim=2,
            groups=(2,),
            latents=(2,),
            widths=(8,),
            hidden=(8,),
            likelihood="categorical",
        ),
        MINE,
    ),
    "hierarchy with state": (
        recipes.Hierarchical(
            cells="vdvae",
            latent_dim=2,
            groups=(1,),
            latents=(1,),
            widths=(4,),
            hidden=(2,),
            likelihood="categorical",
            spectral=0.1,
        ),
        MINE,
    ),
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    made = {}

    def of(name):
        if name not in made:
            recipe, mine = MODELS[name]
            out = tmp_path_factory.mktemp("run") / "run"
            made[name] = train.fit(recipe, mine, steps=20, batch_size=20, progress=False, out=out)
        return made[name]

    return of


@pytest.mark.parametrize("name", MODELS)
def test_examples_come_back_with_any_batch(name, fitted):
    model, x = fitted(name), np.asarray(MODELS[name][1].train)
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


@pytest.mark.parametrize("name", ["vae", "hierarchy"])
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


def test_a_damaged_stream_is_refused_wherever_the_damage_is(fitted):
    """A bit turned, in 300 places; an end cut off; bytes after the end."""
    model = fitted("made")
    stream = coding.encode(model, np.asarray(MINE.test))
    for place in RNG.randint(0, 8 * len(stream), 300):
        damaged = bytearray(stream)
        damaged[place // 8] ^= 1 << (place % 8)
        with pytest.raises(ValueError, match="damaged"):
            coding.decode(model, bytes(damaged))
    for cut in (0, 5, 40, len(stream) - 1):
        with pytest.raises(ValueError, match="damaged"):
            coding.decode(model, stream[:cut])
    with pytest.raises(ValueError, match="damaged or cut short"):
        coding.decode(model, stream + b"0")


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
def test_another_process_decodes(fitted, tmp_path):
    model, x = fitted("vae"), np.asarray(MINE.test)
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
        (
            recipes.VAE(hidden=(4,), latent_dim=2, prior="mixture", likelihood="categorical"),
            MINE,
            "prior and a posterior that",
        ),
        (recipes.Autoregressive(hidden=(4,), orders=2, likelihood="categorical"), MINE, "of one order"),
    ],
    ids=["reals", "mixture", "orders"],
)
def test_models_that_cannot_code_are_refused(recipe, mine, message, tmp_path):
    model = train.fit(recipe, mine, steps=1, batch_size=20, progress=False, out=tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        coding.encode(model, np.asarray(mine.test))


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
