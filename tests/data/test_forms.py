"""Data of one's own in nine forms, and what becomes of them: event shape, levels, bin width, hash, splits, units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dlvm_jax import data
from dlvm_jax.data import Rows, arrays
from dlvm_jax.data.protocol import TRANSFORMS
from dlvm_jax.functional.densities import bits_per_dim

RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, (40, 6, 5), np.uint8)
COLOUR = RNG.randint(0, 256, (40, 6, 5, 3), np.uint8)
LABELS = np.arange(40) % 4
DEEP = RNG.randint(0, 65536, (40, 6, 5)).astype(np.uint16)
TWO = RNG.randint(0, 256, (40, 3, 7, 2), np.uint8)
BITS = RNG.rand(40, 6, 5) < 0.3
ORDER = np.random.RandomState(0).permutation(40)


def whole(found):
    """All examples in the order that they had before the split."""
    assert [len(part) for part in found[1:4]] == [32, 4, 4]
    examples = np.empty((40, *found.train.shape[1:]), found.test.dtype)
    for part, rows in zip(found[1:4], (ORDER[:32], ORDER[32:36], ORDER[36:]), strict=True):
        examples[rows] = np.asarray(part)
    return examples


def npy(folder):
    np.save(folder / "grey.npy", GREY)
    return data.load(folder / "grey.npy"), GREY[..., None], 256


def npz(folder):
    np.savez(
        folder / "set.npz",
        train=COLOUR[:32],
        valid=COLOUR[32:36],
        test=COLOUR[36:],
        train_labels=LABELS[:32],
        test_labels=LABELS[36:],
    )
    found = data.load(str(folder / "set.npz"))
    np.testing.assert_array_equal(found.train_labels, LABELS[:32])
    np.testing.assert_array_equal(found.test_labels, LABELS[36:])
    assert found.valid_labels is None and found.spec.classes == 4 and found.train_labels.dtype == np.int32
    undone = np.empty_like(COLOUR)  # these parts are kept; put them where `whole` looks for them
    undone[ORDER] = COLOUR
    return found, undone, 256


def csv(folder):
    np.savetxt(folder / "rows.csv", TWO.reshape(40, -1), delimiter=",", fmt="%d")
    return data.load(folder / "rows.csv", "levels"), TWO.reshape(40, -1), 256


def grey_folder(folder):
    (folder / "faces").mkdir()
    for i in RNG.permutation(40):
        Image.fromarray(GREY[i]).save(folder / "faces" / f"{i:02d}.{'png' if i % 2 else 'PNG'}")
    return data.load(folder / "faces"), GREY[..., None], 256


def colour_folder(folder):
    """Constant JPEG images of two sizes: compression and resizing keep their colours."""
    (folder / "photos").mkdir()
    for i, colour in enumerate(COLOUR[:, 0, 0]):
        side = (16, 24)[i % 2]
        Image.new("RGB", (side, side), tuple(colour.tolist())).save(
            folder / "photos" / f"{i:02d}.jpg", quality=100, subsampling=0
        )
    found = data.load(folder / "photos", resize=(8, 4))
    exact = np.broadcast_to(COLOUR[:, :1, :1], (40, 8, 4, 3))
    assert np.abs(whole(found).astype(int) - exact).max() <= 2  # rounding of the colour space
    return found, whole(found), 256


def deep(folder):
    return data.from_arrays(DEEP), DEEP[..., None], 65536


def two_channels(folder):
    return data.from_arrays(TWO, labels=LABELS), TWO, 256


def mapped(folder):
    np.save(folder / "grey.npy", GREY)
    found = data.load(folder / "grey.npy", mmap=True)
    assert isinstance(found.train, Rows) and isinstance(found.train.array, np.memmap)
    return found, GREY[..., None], 256


def bits(folder):
    return data.from_arrays(BITS), BITS[..., None], 2


FORMS = [npy, npz, csv, grey_folder, colour_folder, deep, two_channels, mapped, bits]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_form(form, tmp_path):
    found, examples, levels = form(tmp_path)
    np.testing.assert_array_equal(whole(found), examples)
    name = "bits" if levels == 2 else "levels"
    spec = found.spec
    assert spec.event_shape == examples.shape[1:] == tuple(found.train.shape[1:])
    assert (spec.levels, spec.bin_width, spec.discrete, spec.protocol) == (levels, 1.0, True, name)
    assert found.protocol.sizes == (32, 4, 4) and found.protocol.transform == name
    assert found.train.dtype == found.test.dtype == (np.uint16 if levels > 256 else np.uint8)
    batch = np.asarray(found.preprocess(jax.random.key(0), np.asarray(found.train[:10])))
    np.testing.assert_array_equal(batch, np.asarray(found.train)[:10])
    assert batch.dtype == np.float32
    parts = {"train": whole(found)} if form is not npz else {p: getattr(found, p) for p in arrays.PARTS}
    again = data.from_arrays(**parts, labels={npz: found.train_labels, two_channels: LABELS}.get(form))
    if form is not npz:  # whose test labels are a part of it too
        assert again.protocol.hash == found.protocol.hash


def test_the_hash_is_that_of_the_values_and_of_every_setting():
    """Not of the integer type, the name or the way the values are kept; a value recorded once, for other machines."""
    first = data.from_arrays(GREY)
    assert first.protocol.hash == "bd215ee23434"
    for same in (
        data.from_arrays(GREY.astype(np.int64), name="other"),
        data.from_arrays(GREY.astype(">i2")),
        data.from_arrays(np.asfortranarray(GREY)[..., None]),
        data.from_arrays(jax.numpy.asarray(GREY)),
    ):
        assert same.protocol.hash == first.protocol.hash
    changed = GREY.copy()
    changed[-1, -1, -1] ^= 1
    others = [
        data.from_arrays(changed),
        data.from_arrays(GREY.reshape(40, 5, 6)),
        data.from_arrays(GREY.astype(np.uint16)),
        data.from_arrays(GREY, levels=300),
        data.from_arrays(GREY, seed=1),
        data.from_arrays(GREY, protocol="dequantised"),
        data.from_arrays(GREY, protocol="binarised"),
        data.from_arrays(GREY, labels=LABELS),
        data.from_arrays(GREY, labels=LABELS[::-1]),
        data.from_arrays(GREY[:30], test=GREY[30:]),
        data.from_arrays(GREY[:30], valid=GREY[30:]),
        data.from_arrays(GREY.astype(np.float32)),
        data.from_arrays(GREY, source="a paper"),
    ]
    hashes = [found.protocol.hash for found in (first, *others)]
    assert len(set(hashes)) == len(hashes)


def test_what_is_given_is_kept_and_what_is_not_is_held_out():
    """Labels go with their examples; a tenth, and 10,000 examples at most."""
    found = data.from_arrays(GREY[:30], test=GREY[30:], labels=LABELS[:30], test_labels=LABELS[30:])
    order = np.random.RandomState(0).permutation(30)
    np.testing.assert_array_equal(found.test[..., 0], GREY[30:])
    np.testing.assert_array_equal(found.valid[..., 0], GREY[order[27:]])
    np.testing.assert_array_equal(found.train[..., 0], GREY[order[:27]])
    np.testing.assert_array_equal(found.train_labels, LABELS[order[:27]])
    np.testing.assert_array_equal(found.valid_labels, LABELS[order[27:]])
    np.testing.assert_array_equal(found.test_labels, LABELS[30:])
    without = data.from_arrays(GREY[:30], valid=GREY[:0], test=GREY[30:])
    assert len(without.valid) == 0 and len(without.train) == 30 and without.protocol.shuffle is None
    large = data.from_arrays(np.arange(240_000).reshape(-1, 2) % 7)
    assert large.protocol.sizes == (100_000, 10_000, 10_000)


@pytest.mark.parametrize("levels", [2, 17, 256, 1000, 65536])
def test_dequantised_levels_fill_their_bins_and_uniform_noise_has_log2_levels_bits(levels):
    """No value leaves its bin, in float32 and up to 65536 levels, and the noise is uniform to five standard errors."""
    raw = np.random.RandomState(1).randint(0, levels, (600, 400)).astype(np.uint16)
    raw[0, :] = levels - 1
    found = data.from_arrays(raw, protocol="dequantised", levels=levels)
    order = np.random.RandomState(0).permutation(600)
    train = np.asarray(found.preprocess(jax.random.key(1), found.train))
    for x, rows in ((train, order[:480]), (found.valid, order[480:540]), (found.test, order[540:])):
        assert x.dtype == np.float32 and x.min() > 0 and x.max() < 1
        noise = x.astype(np.float64) * levels - raw[rows]
        assert noise.min() > 0 and noise.max() < 1
        assert abs(noise.mean() - 0.5) < 5 * np.sqrt(1 / 12 / x.size)
    assert not found.discrete and found.levels == levels
    np.testing.assert_allclose(bits_per_dim(0.0, found.spec.event_shape, found.bin_width), np.log2(levels))


def test_scaled_levels_end_at_one_and_binarised_ones_have_the_right_mean():
    """The share of ones within five standard errors of the mean grey."""
    scaled = data.from_arrays(DEEP, protocol="scaled")
    np.testing.assert_allclose(scaled.test[..., 0], DEEP[ORDER[36:]] / 65535, rtol=1e-6)
    assert scaled.bin_width == 1 / 65535
    binarised = data.from_arrays(
        np.full((2000, 30), 100, np.uint8) + np.eye(2000, 30, dtype=np.uint8), protocol="binarised"
    )
    for x in (binarised.test, np.asarray(binarised.preprocess(jax.random.key(0), binarised.train))):
        assert set(np.unique(x)) == {0, 1}
        assert abs(x.mean() - 100 / 255) < 5 * 0.5 / np.sqrt(x.size)
    assert (binarised.levels, binarised.bin_width, binarised.discrete) == (2, 1.0, True)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_floating_point_numbers_are_real_and_not_standardised(dtype):
    x = (np.random.RandomState(2).randn(50, 4, 3) * 100).astype(dtype)
    found = data.from_arrays(x)
    assert found.spec[1] == "real" and found.spec[5:8] == (0, False, 1.0)
    rows = np.concatenate([found.train, found.valid, found.test])
    np.testing.assert_array_equal(
        rows[..., 0], x[np.random.RandomState(0).permutation(50)].astype(np.float32)
    )
    assert found.preprocess(jax.random.key(0), found.train).dtype == found.test.dtype == np.float32


@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
def test_a_preferred_transformation_picks_the_protocol(transform):
    """Bits stay bits for models of levels or bits, and real numbers are left alone."""
    assert data.from_arrays(np.ones((20, 3)) + np.eye(20, 3), transform=transform).protocol.name == "real"
    stays = transform in (None, "levels", "binarised")
    assert data.from_arrays(BITS, transform=transform).protocol.name == ("bits" if stays else transform)
    if transform != "bits":
        assert data.from_arrays(GREY, transform=transform).protocol.name == (transform or "levels")


ODD = GREY.astype(float)
ODD[3, 2, 1] = np.nan
BAD = {
    "NaN": (dict(train=ODD), "train holds NaN, or numbers that are infinite as float32"),
    "infinite": (dict(train=GREY / 1.0, test=np.full((3, 6, 5), 1e300)), "test holds NaN, or numbers"),
    "one value": (
        dict(train=np.full((30, 4), 7)),
        "train holds one value only, 7; there is nothing to learn",
    ),
    "few": (
        dict(train=GREY[:3]),
        "train has 3 examples; two or more are needed after 1 each for valid and test; give more",
    ),
    "one": (
        dict(train=GREY[:1], valid=GREY[:2], test=GREY[:2]),
        "train has 1 examples; two or more are needed$",
    ),
    "no examples": (dict(train=GREY[:0]), "train has no examples"),
    "no test": (dict(train=GREY, test=GREY[:0]), "test has no examples"),
    "negative": (
        dict(train=GREY.astype(int) - 3),
        "train holds integers from -3 to 25.; levels are 0 to at most 65535",
    ),
    "large": (dict(train=GREY.astype(int) + 65536), "train holds integers from 655.. to 657..; levels are 0"),
    "numbers": (dict(train=np.arange(30)), r"train has shape \(30,\); give images \[N, H, W\]"),
    "deep": (dict(train=GREY.reshape(40, 1, 1, 5, 6)), r"train has shape \(40, 1, 1, 5, 6\)"),
    "channels first": (
        dict(train=COLOUR.transpose(0, 3, 1, 2)),
        r"1 to 4 channels .* np.moveaxis\(x, 1, -1\)",
    ),
    "empty": (dict(train=np.zeros((30, 0, 4))), "its examples are empty"),
    "text": (dict(train=np.array([["a", "b"]] * 20)), "train holds <U1; give bools, integers"),
    "complex": (dict(train=GREY.astype(complex)), "train holds complex128"),
    "shapes": (
        dict(train=GREY, test=GREY[:, :5]),
        r"test has examples of shape \(5, 5, 1\) and train of \(6, 5, 1\)",
    ),
    "kinds": (dict(train=GREY, test=ODD), "test holds float64 and train uint8; give all parts as integers"),
    "labels": (
        dict(train=GREY, labels=LABELS[:39]),
        r"labels of train have shape \(39,\); 40 examples need \(40,\)",
    ),
    "one-hot": (dict(train=GREY, labels=np.eye(40)), r"labels of train have shape \(40, 40\)"),
    "real labels": (dict(train=GREY, labels=LABELS / 2), "labels of train hold float64; give integers"),
    "negative labels": (dict(train=GREY, labels=LABELS - 1), "labels of train range from -1 to 2"),
    "labels of nothing": (dict(train=GREY, test_labels=LABELS), "labels of test are given, and test is not"),
    "levels": (dict(train=GREY, levels=16), "levels=16 allows integers up to 15, and the arrays hold 255"),
    "level": (dict(train=BITS, levels=1), "levels must be an integer from 2 to 65536, got 1"),
    "levels of reals": (dict(train=GREY / 1.0, levels=16), "levels=16 is for integers"),
    "bits": (
        dict(train=GREY, protocol="bits"),
        "protocol bits is of 0 and 1, and the arrays have 256 levels",
    ),
    "integers": (dict(train=GREY, protocol="real"), "protocol real is of floating-point numbers"),
    "reals": (
        dict(train=GREY / 1.0, protocol="levels"),
        "protocol levels is of integers, and the arrays hold real",
    ),
    "seed": (dict(train=GREY, seed=1.0), "seed is an integer from 0 to 4294967295, got 1.0"),
    "negative seed": (dict(train=GREY, test=GREY, valid=GREY, seed=-1), "seed is an integer from 0 to"),
    "table": (dict(train=GREY, protocol="standardised"), r"protocol standardised is of vectors \[N, D\]"),
    "protocol": (
        dict(train=GREY, protocol="binarized"),
        "unknown protocol 'binarized'; .* did you mean 'binarised'",
    ),
    "transform": (
        dict(train=GREY, transform="level"),
        "unknown transformation 'level'; .* did you mean 'levels'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_unfit_gets_its_line(case):
    given, line = BAD[case]
    with pytest.raises(ValueError, match=line) as caught:
        data.from_arrays(**given)
    assert "\n" not in str(caught.value)
