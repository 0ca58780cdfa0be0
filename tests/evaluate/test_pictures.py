"""Pictures: right tiles in right places, files written."""

import numpy as np
from PIL import Image
from scipy.stats import norm

from dlvm_jax.evaluate import pictures


def test_image_grid_places_tiles_row_by_row():
    images = np.arange(5)[:, None, None] * np.ones((5, 2, 3))
    tiled = pictures.image_grid(images, 3)[..., 0]
    assert tiled.shape == (5, 11)
    assert (tiled[:2, :3] == 0).all() and (tiled[:2, 4:7] == 1).all() and (tiled[3:, :3] == 3).all()
    assert (tiled[2] == 1).all() and (tiled[3:, 8:] == 1).all()  # gaps and the missing tile are blank


def test_quantiles_of_normal_codes_are_the_inverse_cdf():
    u = (np.arange(1000) + 0.5) / 1000
    codes = np.stack([norm.ppf(u), 3 + 2 * norm.ppf(u)], -1)
    points = pictures.quantile_grid(codes, 5).reshape(5, 5, 2)
    wanted = norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9])  # to the spacing of the codes
    np.testing.assert_allclose(points[0, :, 0], wanted, atol=5e-3)
    np.testing.assert_allclose(points[:, 0, 1], 3 + 2 * wanted[::-1], atol=1e-2)
    assert (points[:, 0, 0] == points[0, 0, 0]).all() and (points[0, :, 1] == points[0, 0, 1]).all()


def test_smoothing_keeps_straight_ramps():
    """Cubic interpolation is exact for them: pixel i of six is at (i + 1/2) / 6 - 1/2 of the old ones."""
    ramp = np.broadcast_to(np.arange(8.0)[:, None], (8, 8))
    fine = pictures.smoothed(np.stack([ramp, ramp.T]))
    assert fine.shape == (2, 48, 48)
    inside = slice(12, 36)  # away from the border
    expected = (np.arange(48)[inside] + 0.5) / 6 - 0.5
    np.testing.assert_allclose(
        fine[0, inside, inside], np.broadcast_to(expected[:, None], (24, 24)), atol=1e-5
    )
    np.testing.assert_allclose(fine[1], fine[0].T, atol=1e-5)


def test_files_are_written(tmp_path):
    rng = np.random.RandomState(0)
    pictures.grid(tmp_path / "a.png", rng.rand(7, 8, 8, 3), 4, "title")
    for channels in (1, 2, 4):
        pictures.grid(
            tmp_path / f"{channels}.png", rng.rand(7, 20, 18, channels), 4, above="abcd", beside="ef"
        )
    pictures.latent_scatter(tmp_path / "b.png", rng.randn(50, 1), None)
    pictures.latent_scatter(tmp_path / "c.png", rng.randn(50, 3), rng.randint(0, 10, 50))
    pictures.curves(tmp_path / "d.png", {"one": ([1, 2], [3.0, 4.0])}, "nats")
    pictures.curves(tmp_path / "e.png", {"one": ([1, 2], [3.0, np.nan]), "other": ([1], [np.nan])}, "nats")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in "abcd124")


def test_a_film_shows_its_frames_in_order(tmp_path):
    """Two images side by side in each of three frames, colour or grey; small films are enlarged, values beyond [0, 1] cut."""
    for channels in (1, 3):
        frames = np.linspace(-0.2, 1.2, 3)[:, None, None, None, None] * np.ones((3, 2, 20, 17, channels))
        pictures.film(tmp_path / "film.gif", frames, 2, seconds=0.2)
        film = Image.open(tmp_path / "film.gif")
        assert film.n_frames == 3 and film.info["duration"] == 200 and film.size == (70, 40)
        shown = []
        for number in range(3):
            film.seek(number)
            shown.append(np.asarray(film.convert("L"))[5, 5])
        assert shown[0] == 0 and abs(shown[1] - 127.5) < 3 and shown[2] == 255
