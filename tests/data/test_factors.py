"""Images of known factors: every factor moves what it should, and no two combinations look the same."""

import numpy as np
import pytest

from dlvm_jax.data import factors

FACTORS = factors.all_factors()
IMAGES = factors.render(FACTORS)[..., 0]
GRID = (np.arange(32) + 0.5) / 16 - 1


def test_every_combination_stands_once():
    assert FACTORS.shape == (7680, 5) and len(np.unique(FACTORS, axis=0)) == 7680
    assert (FACTORS.max(0) + 1 == list(factors.LEVELS.values())).all() and (FACTORS.min(0) == 0).all()
    assert IMAGES.shape == (7680, 32, 32) and IMAGES.dtype == np.float32
    assert IMAGES.min() == 0 and IMAGES.max() == 1


def test_no_two_images_are_alike():
    """Rounded to 8 bits all differ, also at 16 x 16: each factor is a function of the image."""
    for images in (IMAGES, factors.render(FACTORS, 16)):
        assert len(np.unique(np.round(255 * images).reshape(7680, -1).astype(np.uint8), axis=0)) == 7680


def test_area_is_that_of_the_shape():
    """Square 2 r^2, ellipse pi r^2 / 2, triangle 3 sqrt(3) r^2 / 4; blunted corners cost less than 3% at r = 6 pixels."""
    area = IMAGES.sum((1, 2)) / 16**2
    radius = 0.2 + 0.05 * FACTORS[:, 1]
    unit = np.array([2.0, np.pi / 2, 3 * np.sqrt(3) / 4])[FACTORS[:, 0]]
    large = radius > 0.37
    assert (np.abs(area / (unit * radius**2) - 1)[large] < 0.03).all()
    assert (np.diff(area.reshape(3, 5, 512).mean(-1), axis=1) > 0).all()


def test_place_is_that_of_the_factors():
    """The centroid of every shape is its centre, to a tenth of a pixel; nothing is cut off at the border."""
    mass = IMAGES.sum((1, 2))
    x, y = (IMAGES.sum(1) @ GRID) / mass, (IMAGES.sum(2) @ GRID) / mass
    np.testing.assert_allclose(x, FACTORS[:, 3] / 7 - 0.5, atol=0.1 / 16)
    np.testing.assert_allclose(y, FACTORS[:, 4] / 7 - 0.5, atol=0.1 / 16)
    assert max(IMAGES[:, [0, -1]].max(), IMAGES[:, :, [0, -1]].max()) == 0


def test_angle_turns_the_ellipse():
    """The long axis, from second moments, is at k / 8 of a quarter turn: to a degree for the largest size."""
    ellipses = (FACTORS[:, :2] == [1, 4]).all(1)
    images, rows = IMAGES[ellipses], FACTORS[ellipses]
    mass = images.sum((1, 2))
    u, v = GRID - (rows[:, 3:4] / 7 - 0.5), GRID - (rows[:, 4:] / 7 - 0.5)
    xx, yy = ((images.sum(axis) * s**2).sum(1) / mass for axis, s in ((1, u), (2, v)))
    xy = np.einsum("nij,ni,nj->n", images, v, u) / mass
    angle = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) % 180
    expected = rows[:, 2] * 90 / 8
    assert (np.abs((angle - expected + 90) % 180 - 90) < 1).all()


def test_impossible_factors_are_refused():
    with pytest.raises(ValueError, match=r"factors are \[N, 5\] .* got shape \(3, 4\)"):
        factors.render(np.zeros((3, 4), int))
    with pytest.raises(ValueError, match="levels from 0 to below"):
        factors.render(np.array([[3, 0, 0, 0, 0]]))
