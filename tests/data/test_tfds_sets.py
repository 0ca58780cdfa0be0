"""Image sets of TensorFlow Datasets, prepared here by builders of our own; what cannot be had is one line."""

import io
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dlvm_jax import data

RNG = np.random.RandomState(0)
IMAGES = {
    "train": RNG.randint(0, 256, (40, 6, 5, 3), np.uint8),
    "test": RNG.randint(0, 256, (12, 6, 5, 3), np.uint8),
}
SIZES = [(6, 5), (8, 5)]


def prepare(folder, features, examples):
    """Write the set tiny_pictures; its builder is not registered, as in another process."""

    class TinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in examples}

        def _generate_examples(self, split):
            yield from enumerate(examples[split])

    tfds.disable_progress_bar()
    TinyPictures(data_dir=str(folder), file_format="array_record").download_and_prepare()


def labelled(split):
    return [{"image": x, "label": i % 3} for i, x in enumerate(IMAGES[split])]


def test_a_prepared_set_is_read_with_its_splits_and_labels(tmp_path, monkeypatch):
    features = {
        "image": tfds.features.Tensor(shape=(6, 5, 3), dtype=np.uint8),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    prepare(tmp_path, features, {split: labelled(split) for split in IMAGES})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = data.load("tfds:tiny_pictures")
    assert found.name == "tfds-tiny_pictures" and found.protocol.sizes == (36, 4, 12)
    assert found.spec.event_shape == (6, 5, 3) and found.spec.levels == 256 and found.spec.classes == 3
    for images, labels, given in (
        (found.test, found.test_labels, IMAGES["test"]),
        (
            np.concatenate([found.train, found.valid]),
            [*found.train_labels, *found.valid_labels],
            IMAGES["train"],
        ),
    ):
        where = {x.tobytes(): i for i, x in enumerate(given)}  # TensorFlow Datasets shuffles
        order = [where[x.tobytes()] for x in images]
        assert sorted(order) == list(range(len(given)))
        np.testing.assert_array_equal(np.array(order) % 3, labels)
    assert data.load("tfds:tiny_pictures", cache=tmp_path).protocol.hash == found.protocol.hash
    assert data.load("tfds:tiny_pictures", transform="dequantised").bin_width == 1 / 256


def test_compressed_images_of_several_sizes_are_resized(tmp_path):
    def png(i):
        file = io.BytesIO()
        Image.new("L", SIZES[i % 2][::-1], 5 * i).save(file, "PNG")
        file.seek(0)
        return file

    examples = {"train": [{"picture": png(i)} for i in range(30)]}
    prepare(tmp_path, {"picture": tfds.features.Image(shape=(None, None, 1))}, examples)
    with pytest.raises(ValueError, match=r"all must be equal; give resize=\(height, width\)"):
        data.load("tfds:tiny_pictures", cache=tmp_path)
    found = data.load("tfds:tiny_pictures", cache=tmp_path, resize=(3, 4))
    whole = np.concatenate([found.train, found.valid, found.test])
    assert whole.shape == (30, 3, 4, 1) and found.train_labels is None
    assert sorted(whole[:, 0, 0, 0]) == [5 * i for i in range(30)] and (whole.std((1, 2)) == 0).all()


def test_a_set_without_images_is_refused(tmp_path):
    prepare(tmp_path, {"text": tfds.features.Text()}, {"train": [{"text": "a"}]})
    with pytest.raises(ValueError, match="tfds:tiny_pictures is no set of images: its features are text"):
        data.load("tfds:tiny_pictures", cache=tmp_path)


def test_a_set_that_cannot_be_downloaded_is_one_line_at_once(tmp_path, monkeypatch):
    def refused(url):
        raise ConnectionError("example.org cannot be reached")

    monkeypatch.setattr("dlvm_jax.data.tfds_sets.check_reachable", refused)
    start = time.monotonic()
    with pytest.raises(
        FileNotFoundError,
        match=r"tfds:cifar10 is not prepared in .*, and cannot be here: example.org cannot be reached; .* set TFDS_DATA_DIR",
    ) as caught:
        data.load("tfds:cifar10", cache=tmp_path)
    assert "\n" not in str(caught.value) and time.monotonic() - start < 30


def test_other_ways_to_fail_are_one_line(tmp_path):
    for name, line in (
        ("mnits", r"TensorFlow Datasets has no 'mnits', .*; did you mean tfds:mnist\?"),
        ("cifar10/foo", "tfds:cifar10/foo cannot be read: .*BuilderConfig foo not found"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            data.load(f"tfds:{name}", cache=tmp_path)
        assert "\n" not in str(caught.value)
