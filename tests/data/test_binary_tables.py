"""Tables of bits: both kinds of files, parts as they are, what is refused."""

import os

import numpy as np
import pytest

from dlvm_jax import data
from dlvm_jax.data.binary_tables import BINARY_TABLES

BITS = {
    part: (np.random.RandomState(i).rand(n, 11) < 0.3).astype(np.uint8)
    for i, (part, n) in enumerate({"train": 20, "valid": 5, "test": 9}.items())
}
SIZES = {  # bits, and rows of the parts as they are published
    "nltcs": (16, 16181, 2157, 3236),
    "plants": (69, 17412, 2321, 3482),
    "baudio": (100, 15000, 2000, 3000),
    "bnetflix": (100, 15000, 2000, 3000),
    "jester": (100, 9000, 1000, 4116),
    "accidents": (111, 12758, 1700, 2551),
    "mushrooms": (112, 2000, 500, 5624),
    "pumsb_star": (163, 12262, 1635, 2452),
    "dna": (180, 1600, 400, 1186),
    "nips": (500, 400, 100, 1240),
    "moviereview": (1001, 1600, 150, 250),
    "bbc": (1058, 1670, 225, 330),
    "voting": (1359, 1214, 200, 350),
}


def write_text(folder, name="dna", bits=BITS):
    (folder / name).mkdir(parents=True)
    for part, rows in bits.items():
        np.savetxt(folder / name / f"{name}.{part}.data", rows, fmt="%d", delimiter=",")


def test_parts_are_those_of_the_files_of_either_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("DLVM_DATA", str(tmp_path))
    write_text(tmp_path / "binary_tabular")
    found = data.load("dna", transform="levels")
    for part, rows in BITS.items():
        np.testing.assert_array_equal(getattr(found, part), rows)
    assert found.levels == 2 and found.discrete and found.spec.event_shape == (11,)
    assert found.protocol.name == "bits" and found.protocol.sizes == (20, 5, 9)
    np.savez(
        tmp_path / "binary_tabular" / "bbc.npz",
        **{part: np.packbits(rows, axis=1) for part, rows in BITS.items()},
        dim=11,
    )
    packed = data.load("bbc")
    for part, rows in BITS.items():
        np.testing.assert_array_equal(getattr(packed, part), rows)
    assert packed.protocol == found.protocol  # of the same bits and source
    write_text(tmp_path / "binary_tabular", "bbc", BITS | {"test": 1 - BITS["test"]})
    assert data.load("bbc").protocol.hash != found.protocol.hash


def test_what_is_not_there_or_no_bits_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("DLVM_DATA", raising=False)
    with pytest.raises(
        FileNotFoundError, match=r"files of dna are not here \(DLVM_DATA is not set\); put dna.train.data"
    ):
        data.load("dna")
    monkeypatch.setenv("DLVM_DATA", str(tmp_path))
    write_text(tmp_path / "binary_tabular")
    with pytest.raises(
        FileNotFoundError, match=r"has neither nltcs.train.data, .valid.data and .test.data nor nltcs.npz"
    ):
        data.load("nltcs")
    with pytest.raises(ValueError, match="unknown protocol of dna 'levels'; there are bits"):
        data.load("dna", "levels")
    with pytest.raises(ValueError, match="dna has no setting seed"):
        data.load("dna", seed=3)
    (tmp_path / "binary_tabular" / "dna" / "dna.test.data").write_text("0,1\nx,1\n")
    with pytest.raises(ValueError, match=r"dna.test.data cannot be read as bits with commas between"):
        data.load("dna")


def test_the_tables_at_hand_have_the_published_sizes():
    assert set(SIZES) == set(BINARY_TABLES)
    if not os.path.isdir(os.path.join(os.environ.get("DLVM_DATA", "no data"), "binary_tabular")):
        pytest.skip("DLVM_DATA names no folder with binary_tabular")
    for name, (bits, *sizes) in SIZES.items():
        found = data.load(name)
        assert found.spec.event_shape == (bits,) and list(found.protocol.sizes) == sizes, name
