"""`data.load`: names, paths, folders; the protocol that a transformation picks; what is refused, in one line."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dlvm_jax import data
from dlvm_jax.data import toys
from dlvm_jax.data.loading import published_protocol

GREY = np.random.RandomState(0).randint(0, 256, (30, 6, 5), np.uint8)


@pytest.mark.parametrize(
    "name, transform, protocol",
    [
        ("mnist", None, "dynamic-tomczak"),
        ("mnist", "binarised", "dynamic-tomczak"),
        ("mnist", "levels", "levels"),
        ("freyfaces", None, "levels"),
        ("freyfaces", "dequantised", "dequantised"),
        ("olivetti", "scaled", "scaled"),
        ("binarized_mnist", None, "static"),
        ("binarized_mnist", "binarised", "static"),
        ("binarized_mnist", "levels", "static"),
    ],
)
def test_a_transformation_picks_the_protocol_of_a_published_set(name, transform, protocol):
    assert published_protocol(name, None, transform).name == protocol


def test_a_protocol_has_the_last_word():
    assert published_protocol("mnist", "dynamic-burda", "levels").name == "dynamic-burda"


@pytest.mark.parametrize(
    "name, transform, there",
    [
        ("binarized_mnist", "scaled", r"static \(bits\)"),
        ("binarized_mnist", "dequantised", r"static \(bits\)"),
        ("freyfaces", "binarised", r"levels \(levels\), dequantised \(dequantised\), scaled \(scaled\)"),
    ],
)
def test_a_transformation_that_a_set_lacks_is_refused(name, transform, there):
    with pytest.raises(
        ValueError, match=f"{name} has no protocol whose values are {transform}; it has {there}$"
    ):
        data.load(name, transform=transform)


def test_toys_and_tables_have_one_protocol_whatever_a_model_prefers():
    plane = data.load("two_moons", transform="levels")
    np.testing.assert_array_equal(plane.train, toys.dataset("two_moons").train)
    assert data.load("breast_cancer", transform="dequantised").protocol.name == "standardised"
    with pytest.raises(ValueError, match="unknown protocol of two_moons 'levels'; there are sampled"):
        data.load("two_moons", "levels")
    with pytest.raises(ValueError, match="unknown protocol of breast_cancer 'real'; there are standardised"):
        data.load("breast_cancer", "real")


def save(path, content):
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content)
    return path


def test_rows_of_real_numbers_are_a_table_and_rows_of_integers_are_levels(tmp_path):
    rows = np.random.RandomState(1).randn(30, 4)
    path = save(tmp_path / "rows.npy", rows)
    assert data.load(path, transform="levels").protocol.name == "standardised"
    real = data.load(path, "real")
    np.testing.assert_array_equal(
        real.test, rows[np.random.RandomState(0).permutation(30)[27:]].astype(np.float32)
    )
    integers = data.load(save(tmp_path / "integers.npy", GREY[:, 0]))
    assert integers.spec.protocol == "levels" and integers.spec.event_shape == (5,)
    bits = save(tmp_path / "bits.csv", "\n".join("0,1,1" if i % 3 else "1,0,1" for i in range(30)))
    assert data.load(bits, "bits").spec[5:8] == (2, True, 1.0)
    assert (
        data.load(save(tmp_path / "few.csv", "\n".join(f"{i},{i % 7}" for i in range(30)))).spec.levels == 0
    )
    with pytest.raises(ValueError, match="protocol levels is of integers, and the arrays hold real numbers"):
        data.load(save(tmp_path / "half.csv", "0.5,1\n1,2\n" * 10), "levels")


def test_one_array_of_any_name_is_split_with_its_labels(tmp_path):
    labels = np.arange(30) % 3
    found = data.load(save(tmp_path / "faces.npz", {"images": GREY, "labels": labels}), seed=5, levels=300)
    order = np.random.RandomState(5).permutation(30)
    np.testing.assert_array_equal(found.test[..., 0], GREY[order[27:]])
    np.testing.assert_array_equal(found.test_labels, labels[order[27:]])
    assert found.name == "faces" and found.levels == 300


@pytest.mark.parametrize(
    "name, content, line",
    [
        ("a.npy", None, "a.npy does not exist$"),
        ("a.txt", None, r"a.txt does not exist; give .npy, .npz, .csv or a folder of images$"),
        ("a.txt", "1 2", r"a.txt is no data: give .npy, .npz, .csv or a folder of images$"),
        ("a.csv", "x,y\n1,2\n", "cannot be read as a table of numbers without a header: could not convert"),
        ("a.npy", "nothing", "a.npy cannot be read as arrays of numbers: "),
        ("a.npy", np.array([{}, {}]), "a.npy cannot be read as arrays of numbers: "),
        ("a.npz", "no archive", "a.npz cannot be read as arrays of numbers: "),
        (
            "a.npz",
            {"first": GREY, "second": GREY},
            "its arrays are first, second; give train, valid, test, train_labels",
        ),
        ("a.npz", {"train": GREY, "tset": GREY}, "its arrays are train, tset; give train"),
        ("a.npz", {"train": GREY, "labels": GREY[:2, 0, 0]}, r"labels of train have shape \(2,\)"),
    ],
)
def test_unfit_files_get_their_line(tmp_path, name, content, line):
    path = tmp_path / name
    if content is not None:
        save(path, content)
    with pytest.raises((ValueError, FileNotFoundError), match=line) as caught:
        data.load(path)
    assert "\n" not in str(caught.value)


def folder_of(tmp_path, *images, suffix="png"):
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.{suffix}")
    return tmp_path


def constant(mode, value, size=(4, 4)):
    return Image.new(mode, size, value)


def test_folders_keep_depth_and_channels(tmp_path):
    rng = np.random.RandomState(3)
    for name, pixels, levels in (
        ("bits", rng.rand(30, 6, 5) < 0.5, 2),
        ("deep", rng.randint(0, 65536, (30, 6, 5)).astype(np.uint16), 65536),
        ("alpha", rng.randint(0, 256, (30, 6, 5, 4), np.uint8), 256),
    ):
        (tmp_path / name).mkdir()
        found = data.load(folder_of(tmp_path / name, *map(Image.fromarray, pixels)), seed=2)
        order = np.random.RandomState(2).permutation(30)
        # the files are sorted by name: 0, 1, 10, 11, ...
        pixels = pixels[sorted(range(30), key=lambda i: f"{i}.png")]
        expected = pixels[order[27:]].reshape(found.test.shape)
        np.testing.assert_array_equal(found.test, expected)
        assert found.levels == levels and found.name == name


def test_grey_among_colour_becomes_colour_and_palettes_do(tmp_path):
    images = [constant("L", 10 + i) for i in range(10)] + [constant("RGB", (5, i, 7)) for i in range(10)]
    images.append(constant("RGB", (5, 90, 7)).convert("P", palette=Image.Palette.ADAPTIVE))
    found = data.load(folder_of(tmp_path, *images))
    whole = np.concatenate([found.train, found.valid, found.test])[:, 0, 0]
    assert {(12, 12, 12), (5, 3, 7), (5, 90, 7)} <= set(map(tuple, whole.tolist()))


def test_resized_images_are_area_averages(tmp_path):
    pixels = np.random.RandomState(4).randint(0, 256, (30, 6, 8), np.uint8)
    found = data.load(folder_of(tmp_path, *map(Image.fromarray, pixels)), resize=(3, 2))
    pixels = pixels[sorted(range(30), key=lambda i: f"{i}.png")][
        np.random.RandomState(0).permutation(30)[27:]
    ]
    mean = pixels.reshape(3, 3, 2, 2, 4).mean((2, 4))
    np.testing.assert_allclose(found.test[..., 0], mean, atol=0.51)  # rounded


def test_photographs_stand_upright(tmp_path):
    """Tag 274 of EXIF, orientation 6: the camera was turned; rows and columns change places."""
    exif = Image.Exif()
    exif[274] = 6
    for i in range(30):
        constant("L", i, (8, 4)).save(tmp_path / f"{i}.jpg", exif=exif)
    assert data.load(tmp_path).spec.event_shape == (8, 4, 1)


def test_unfit_folders_get_their_line(tmp_path):
    def refused(line, *images, **settings):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        with pytest.raises(ValueError, match=line) as caught:
            data.load(folder_of(folder, *images), **settings)
        assert "\n" not in str(caught.value)

    refused(r"holds no images \(.png, .jpg, .jpeg\)$")
    refused("kinds .LA, RGB.; convert them to one", constant("LA", (1, 2)), constant("RGB", (1, 2, 3)))
    refused(
        r"0.png has shape \(4, 4, 1\) and 1.png \(5, 4, 1\); all must be equal; give resize=\(height, width\)",
        constant("L", 1),
        constant("L", 2, (4, 5)),
    )
    refused("train holds one value only, 1", *[constant("L", 1)] * 20)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    folder_of(damaged, *map(Image.fromarray, GREY))
    whole = (damaged / "7.png").read_bytes()
    for content, line in (b"PNG", "7.png is no image"), (whole[: len(whole) // 2], "7.png is damaged"):
        (damaged / "7.png").write_bytes(content)
        with pytest.raises(ValueError, match=line):
            data.load(damaged)
    with pytest.raises(ValueError, match=r"holds no images .* it has the folders 0, 1, .*: name one of them"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    "name, close",
    [
        ("mnsit", "mnist"),
        ("MNIST", "mnist"),
        ("Olivetti", "olivetti"),
        ("checker_board", "checkerboard"),
        ("breast-cancer", "breast_cancer"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, close):
    with pytest.raises(
        ValueError, match=f"unknown data set '{name}'; there are .*; did you mean '{close}'\\?"
    ):
        data.load(name)


def test_settings_that_a_source_lacks_are_refused(tmp_path):
    path = save(tmp_path / "a.npz", {"train": GREY})
    for source, settings, line in (
        ("mnist", {"levels": 16}, "mnist has no setting levels; leave levels=16 out"),
        ("two_moons", {"seed": 1}, "two_moons has no setting seed"),
        ("breast_cancer", {"mmap": True}, "breast_cancer has no setting mmap"),
        (path, {"mmap": True}, "a.npz has no setting mmap"),
        (path, {"resize": (3, 3)}, "a.npz has no setting resize"),
        (tmp_path, {"mmap": True}, "has no setting mmap"),
        (tmp_path, {"resize": (0, 3)}, r"resize is a height and a width of at least 1, got \(0, 3\)"),
    ):
        with pytest.raises(ValueError, match=line):
            data.load(source, **settings)
    with pytest.raises(
        ValueError, match=r"unknown transformation 'dequantized'; .* did you mean 'dequantised'"
    ):
        data.load("mnist", transform="dequantized")


def test_importing_data_loads_no_reader():
    """Nor does data of one's own in arrays."""
    code = """
import sys, numpy as np
from dlvm_jax import data
data.from_arrays(np.arange(60).reshape(20, 3))
found = {name.split(".")[0] for name in sys.modules} & {"sklearn", "PIL", "tensorflow_datasets", "scipy.io", "flax", "optax"}
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)
