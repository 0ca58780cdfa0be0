"""Tables: what is read, how it is split and scaled, and what is refused."""

import numpy as np
import pytest

from dlvm_jax import data
from dlvm_jax.data import tables
from experiments.flow import report as flow_report

ROWS = np.random.RandomState(0).randn(50, 3) * [1, 10, 0.1] + [5, 0, -2]


def write(path, rows=ROWS):
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        np.savetxt(path, rows, delimiter=",")
    return str(path)


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_rows_are_split_once_and_scaled_by_the_training_rows(tmp_path, suffix):
    found = data.load(write(tmp_path / f"rows{suffix}"))
    assert found.protocol.sizes == (40, 5, 5) and found.name == "rows"
    np.testing.assert_allclose(found.train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.train.std(0), 1, atol=1e-6)
    order = np.random.RandomState(0).permutation(50)
    mean, std = ROWS[order[:40]].mean(0), ROWS[order[:40]].std(0)
    np.testing.assert_allclose(found.test * std + mean, ROWS[order[45:]], rtol=1e-4)
    np.testing.assert_allclose(found.valid * std + mean, ROWS[order[40:45]], rtol=1e-4)
    other = data.load(write(tmp_path / f"other{suffix}", ROWS[::-1]))
    assert other.protocol.hash != found.protocol.hash


def test_published_parts_are_kept(tmp_path):
    np.savez(tmp_path / "set.npz", train=ROWS[:30], valid=ROWS[30:40], test=ROWS[40:])
    found = data.load(str(tmp_path / "set.npz"))
    assert found.protocol.sizes == (30, 10, 10)
    np.testing.assert_allclose(found.test * ROWS[:30].std(0) + ROWS[:30].mean(0), ROWS[40:], rtol=1e-4)


@pytest.mark.parametrize(
    "name, content, line",
    [
        ("a.npy", np.full((20, 2), np.nan), "train holds NaN or infinite numbers"),
        ("a.npy", np.stack([np.arange(20.0), np.ones(20)], 1), r"columns \[1\] are constant in training"),
        (
            "a.npy",
            np.stack([np.arange(12.0), np.full(12, 0.1)], 1),
            r"columns \[1\] are constant in training",
        ),
        ("a.npy", np.stack([ROWS[:, 0], 7 / ROWS[:, 1] * ROWS[:, 1]], 1), r"columns \[1\] are constant"),
        ("a.npy", ROWS + 1j, "train holds complex128"),
        (
            "a.npz",
            {"train": ROWS, "valid": ROWS, "test": ROWS[:, :1]},
            r"test has examples of shape \(1,\) and train of \(3,\)",
        ),
        ("a.npy", ROWS[:2], "train has 2 examples; two or more are needed after 1 each for valid and test"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, line):
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(ValueError, match=line):
        data.load(str(path))


def test_a_column_far_from_zero_is_not_constant(tmp_path):
    """Seconds of one day, in seconds since 1970."""
    rows = np.stack([ROWS[:, 0], 1.7e9 + ROWS[:, 1]], 1)
    assert data.load(write(tmp_path / "a.npy", rows)).train.std(0) == pytest.approx([1, 1], rel=1e-4)
    rows[:, 1] = 9_999_995 + np.arange(50) % 5  # numbers of orders, which float32 holds exactly
    assert data.load(write(tmp_path / "a.npy", rows)).train.std(0) == pytest.approx([1, 1], rel=1e-4)


def test_complex_rows_are_refused_by_the_standardisation_too():
    with pytest.raises(ValueError, match="train holds complex128; a table is of real numbers"):
        tables.standardised(3 * [ROWS + 1j], 3 * [None], "a", 0, "", "")


def test_rows_in_memory_are_standardised_when_asked_and_keep_their_labels():
    found = data.from_arrays(ROWS, labels=np.arange(50), protocol="standardised")
    order = np.random.RandomState(0).permutation(50)
    np.testing.assert_allclose(
        found.test * ROWS[order[:40]].std(0) + ROWS[order[:40]].mean(0), ROWS[order[45:]], rtol=1e-4
    )
    np.testing.assert_array_equal(found.test_labels, order[45:])
    others = data.from_arrays(ROWS, labels=np.zeros(50, int), protocol="standardised")
    assert others.protocol.hash != found.protocol.hash


def test_the_embedded_table_has_the_hash_of_today():
    assert data.load("breast_cancer").protocol.hash == "cc3d5324ee2b"


def test_the_gaussian_to_beat_is_the_one_of_greatest_likelihood():
    """Its mean log-density of its own training rows is minus its entropy."""
    rows = data.load("breast_cancer").train
    mean, _ = flow_report.gaussian_log_prob(rows, rows)
    _, log_det = np.linalg.slogdet(np.cov(rows.T, bias=True))
    entropy = 0.5 * (rows.shape[1] * np.log(2 * np.pi * np.e) + log_det)
    assert mean == pytest.approx(-entropy, abs=0.01)


def test_columns_in_narrow_types_are_judged_by_their_own_rounding():
    rng = np.random.RandomState(0)
    half, single = ((rng.rand(50) + 0.5).astype(dtype) for dtype in (np.float16, np.float32))
    kept_in_double = (np.float32(7) / single * single).astype(np.float64)
    for column in (np.full(50, -128, np.int8), np.float16(7) / half * half, kept_in_double):
        rows = np.stack([rng.randint(-9, 9, 50).astype(column.dtype), column], 1)
        with pytest.raises(ValueError, match=r"columns \[1\] are constant"):
            data.from_arrays(rows, protocol="standardised")


def test_numbers_beyond_double_precision_are_refused():
    rows = np.random.RandomState(0).randn(50, 2)
    with pytest.raises(ValueError, match="other units"):
        data.from_arrays(1e300 * rows, protocol="standardised")
    with pytest.raises(ValueError, match="test holds"):
        data.from_arrays(rows, valid=rows, test=1e60 * rows, protocol="standardised")


def test_masked_arrays_are_refused():
    rows = np.random.RandomState(0).randn(50, 2)
    with pytest.raises(ValueError, match="missing values"):
        data.from_arrays(np.ma.masked_array(rows, rows > 1))
