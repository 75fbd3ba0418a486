"""TensorFlow Datasets without TensorFlow."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from flaxdream.data.images import BrokenPicture
from flaxdream.data.tfds_set import TfdsSet


def encoded(number):
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 4 + number, 3), 10 * number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Five pictures to train on, two to validate; the last has no caption."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "text": tfds.features.Text(),
            "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            several = [{"text": f"{letter} {number}", "id": number} for letter in "ab"]
            yield (
                number,
                {
                    "image": io.BytesIO(encoded(number)),
                    "text": f"photo  {number}" if number < 4 else " ",
                    "captions": several,
                    "label": number % 2,
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the set as ArrayRecord."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    TinyPictures(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return str(folder)


def by_number(found):
    """Index of picture k: TensorFlow Datasets shuffles when it writes."""
    return {found.read(index).shape[1] - 4: index for index in range(len(found))}


def test_records_are_pictures_with_captions(prepared):
    found = TfdsSet("tfds:tiny_pictures", "validation", data_dir=prepared)
    order = by_number(found)
    for number in range(2):
        assert found.captions(order[number]) == (f"photo {number}",)
        assert found.size(order[number]) == (6, 4 + number)
        assert (found.read(order[number]) == 10 * number).all()
    assert len(found) == 2 and len(TfdsSet("tfds:tiny_pictures", data_dir=prepared)) == 5
    assert str(found.path(1)) == "tfds:tiny_pictures/record 1"


def test_captions_may_lie_deeper_or_be_labels(prepared):
    found = TfdsSet("tfds:tiny_pictures", "validation", data_dir=prepared, caption_column="captions/text")
    order = by_number(found)
    assert found.captions(order[1]) == ("a 1", "b 1")
    found = TfdsSet("tfds:tiny_pictures", "validation", data_dir=prepared, caption_column="label")
    assert [found.captions(order[number]) for number in range(2)] == [("cat",), ("dog",)]


def test_a_folder_with_a_version_is_a_set_too(prepared):
    assert len(TfdsSet(f"tfds:{prepared}/tiny_pictures/1.0.0")) == 5


def test_a_record_without_caption_is_a_broken_picture_or_an_empty_prompt(prepared):
    found = TfdsSet("tfds:tiny_pictures", data_dir=prepared)
    (lost,) = [index for index in range(5) if found.captions(index) == ("",)]
    with pytest.raises(BrokenPicture, match=f"tfds:tiny_pictures/record {lost}: its 'text' holds no caption"):
        found.read(lost)
    assert TfdsSet("tfds:tiny_pictures", data_dir=prepared, missing_caption="empty").read(lost).shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"caption_column": "prompt"},
            r"no column 'prompt' \(--caption_column\); it has image, text, captions/text, captions/id, label",
        ),
        ({"caption_column": "captions"}, "(?s)column 'captions' holds .*; expected text"),
        ({"caption_column": "image"}, "column 'image' holds .*; expected text"),
        ({"image_column": "img"}, r"no column 'img' \(--image_column\)"),
        ({"image_column": "label"}, "column 'label' holds .*; expected a picture"),
        ({"split": "test"}, "has no split 'test'; it has train, validation"),
    ],
)
def test_wrong_columns_and_splits_are_refused_with_those_that_there_are(prepared, options, message):
    with pytest.raises(ValueError, match=message):
        TfdsSet("tfds:tiny_pictures", data_dir=prepared, **options)


def test_an_unknown_set_is_refused_in_one_line(prepared):
    with pytest.raises(
        ValueError, match="^tfds:no_such_set: TensorFlow Datasets knows no set of this name, and there is"
    ):
        TfdsSet("tfds:no_such_set", data_dir=prepared)


def test_a_set_that_cannot_be_prepared_says_how_to(tmp_path, monkeypatch):
    def failing(self, **options):
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(TinyPictures, "download_and_prepare", failing)
    with pytest.raises(
        ValueError, match="cannot be prepared here .*No module named 'tensorflow'.* tfds build tiny_pictures"
    ):
        TfdsSet("tfds:tiny_pictures", data_dir=str(tmp_path))


def test_other_file_formats_say_how_to_convert(prepared, tmp_path, monkeypatch):
    def sequential(self, **options):
        raise NotImplementedError("Random access data source for file format tfrecord is not supported")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", sequential)
    with pytest.raises(ValueError, match="cannot be read at random; prepare it as ArrayRecord"):
        TfdsSet("tfds:tiny_pictures", data_dir=prepared)


def test_the_fingerprint_is_that_of_version_split_and_bytes(prepared):
    sets = [TfdsSet("tfds:tiny_pictures", split, data_dir=prepared) for split in ("train", "train", "validation")]
    assert sets[0].fingerprint == sets[1].fingerprint != sets[2].fingerprint


@pytest.mark.slow
def test_neither_tensorflow_nor_jax_is_imported(prepared):
    program = (
        "import sys\nfrom flaxdream.data.tfds_set import TfdsSet\n"
        f"TfdsSet('tfds:tiny_pictures', 'validation', data_dir={prepared!r}).read(0)\n"
        "sys.exit(repr(sorted({'tensorflow', 'jax', 'torch'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr.strip() == "[]"
