"""The attention of DRAW: its filters against the formula in extended precision, its patches against slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import attention
from tests.functional.common import checks


def printed(center, stride, log_std, count, size):
    """The filters as equations 19, 25 and 26 print them."""
    mean = center + (np.arange(1, count + 1) - count / 2 - 0.5) * stride
    squares = np.square(np.arange(1, size + 1) - mean[:, None]).astype(np.longdouble)
    weight = np.exp(-squares / (2 * np.exp(np.longdouble(2 * log_std))))
    return weight / weight.sum(-1, keepdims=True)


@checks(attention.filterbank)
def test_filters_equal_the_printed_formula(dtype):
    """Exponents of up to 40, each right to a rounding: 1e-5 of the largest weight in float32, 1e-14 in float64."""
    center, stride = np.array([3.3, 0.1, -3.0, 5.0]), np.array([0.7, 2.5, 1.0, 0.0])
    log_std = np.array([0.2, 1.0, 0.5, -1.0])
    found = attention.filterbank(*(jnp.asarray(n, dtype) for n in (center, stride, log_std)), 4, 9)
    assert found.shape == (4, 4, 9) and found.dtype == dtype
    expected = [
        printed(*numbers, 4, 9).astype(float) for numbers in zip(center, stride, log_std, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol={jnp.float32: 1e-5, jnp.float64: 1e-14}[dtype])


@jax.jit
def steepest(center, stride, log_std):
    """Filters, and the gradient of a weighted sum of them."""
    weighted = lambda *numbers: (attention.filterbank(*numbers, 3, 7) * jnp.arange(21.0).reshape(3, 7)).sum()
    return attention.filterbank(center, stride, log_std, 3, 7), jax.grad(weighted, (0, 1, 2))(
        center, stride, log_std
    )


def test_filters_whose_sum_underflows_are_the_pixel_at_the_edge():
    """The printed sum is zero for all of these; the weights are not, and their gradients are finite."""
    for center, log_std, pixel in ((-1e4, -2.0, 0), (3e6, 0.0, 6), (4.2, -60.0, 3), (4.5, -300.0, None)):
        filters, gradient = steepest(center, 0.0, log_std)
        np.testing.assert_allclose(filters.sum(-1), 1, rtol=1e-6)
        assert all(np.isfinite(each) for each in gradient)
        if pixel is not None:
            np.testing.assert_array_equal(filters, np.eye(7)[[pixel] * 3])
    np.testing.assert_allclose(steepest(4.0, 1.0, 80.0)[0], 1 / 7, rtol=1e-6)  # as wide as can be


@checks(attention.read_patch, attention.write_patch)
def test_narrow_filters_at_stride_one_read_and_write_the_patch_itself():
    image = np.random.RandomState(0).randn(2, 8, 6, 3).astype(np.float32)
    rows = attention.filterbank(jnp.array([4.0, 5.0]), 1.0, -3.0, 3, 8)  # rows 3-5 and 4-6, counted from 1
    columns = attention.filterbank(jnp.array([2.0, 5.0]), 1.0, -3.0, 3, 6)
    patch = attention.read_patch(image, rows, columns)
    expected = np.stack([image[0, 2:5, 0:3], image[1, 3:6, 3:6]])
    np.testing.assert_allclose(patch, expected, atol=1e-6)
    drawn = np.zeros_like(image)
    drawn[0, 2:5, 0:3], drawn[1, 3:6, 3:6] = expected
    np.testing.assert_allclose(attention.write_patch(patch, rows, columns), drawn, atol=1e-6)


def test_writing_is_the_transpose_of_reading():
    """<read(x), w> = <x, write(w)>, sums of 48 products to 1e-5."""
    rng = np.random.RandomState(1)
    image, patch = rng.randn(5, 4, 2).astype(np.float32), rng.randn(3, 3, 2).astype(np.float32)
    seen = attention.window(jnp.asarray(0.3 * rng.randn(5), jnp.float32), (5, 4), 3)
    read = attention.read_patch(image, seen.rows, seen.columns)
    write = attention.write_patch(patch, seen.rows, seen.columns)
    np.testing.assert_allclose((read * patch).sum(), (image * write).sum(), rtol=1e-5)


@checks(attention.window)
def test_a_window_is_the_grid_of_its_five_numbers():
    """Equations 22 to 24 by hand for an image of 5 rows and 9 columns and a grid of 3 x 3: stride 8 / 2 exp(-.5)."""
    raw = jnp.array([0.2, -0.4, np.log(0.36), -0.5, 1.7])
    found = attention.window(raw, (5, 9), 3)
    stride, log_std = 4 * np.exp(-0.5), np.log(0.6)
    np.testing.assert_allclose(
        found.columns, printed(5 * 1.2, stride, log_std, 3, 9).astype(float), atol=1e-5
    )
    np.testing.assert_allclose(found.rows, printed(3 * 0.6, stride, log_std, 3, 5).astype(float), atol=1e-5)
    assert float(found.log_intensity) == pytest.approx(1.7)
    alone = attention.window(jnp.zeros(5), (5, 9), 1)  # one filter has no stride: the middle
    np.testing.assert_allclose(alone.rows, printed(3.0, 1.0, 0.0, 1, 5).astype(float), atol=1e-6)


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match=r"five numbers \[\*batch, 5\], got shape \(4,\)"):
        attention.window(jnp.zeros(4), (3, 3), 2)
    for count, size in ((0, 3), (2, 0)):
        with pytest.raises(ValueError, match=f"at least one filter and one pixel, got {count} and {size}"):
            attention.filterbank(1.0, 1.0, 0.0, count, size)
