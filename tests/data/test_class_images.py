"""The folder of class pictures."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from flaxdream.data.class_images import drawn_otherwise, missing_class_images, save_class_image
from flaxdream.data.digests import content_digest, pixel_digest, text_digest
from flaxdream.data.images import read_picture, read_png_settings

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def test_digests_are_those_of_diffusers(tmp_path):
    image = Image.fromarray(PIXELS)
    assert pixel_digest(PIXELS) == hashlib.sha1(image.tobytes()).hexdigest()
    assert pixel_digest(PIXELS[:, ::-1]) == hashlib.sha1(np.asarray(image)[:, ::-1].tobytes()).hexdigest()
    (tmp_path / "a").write_bytes(b"abc")
    assert content_digest(tmp_path / "a") == hashlib.sha1(b"abc").hexdigest()
    assert text_digest(["ab", "c"]) != text_digest(["a", "bc"])


def test_an_absent_or_empty_folder_lacks_everything(tmp_path):
    assert missing_class_images(tmp_path / "new", 3) == missing_class_images(tmp_path, 3) == [0, 1, 2]


def test_a_picture_is_named_by_number_and_content_and_holds_its_settings(tmp_path):
    path = save_class_image(tmp_path / "class", 7, PIXELS, {"prompt": "a dog", "seed": 7})
    assert path.name == f"7-{pixel_digest(PIXELS)}.png"
    np.testing.assert_array_equal(read_picture(path), PIXELS)
    assert read_png_settings(path) == {"prompt": "a dog", "seed": "7"}


def test_a_generation_goes_on_with_the_numbers_that_are_missing(tmp_path):
    for number in (0, 1, 4):
        save_class_image(tmp_path, number, PIXELS + number, {})
    (tmp_path / ".2-abc.png.partial").write_bytes(b"killed while writing")
    assert missing_class_images(tmp_path, 6) == [2, 3, 5]
    assert missing_class_images(tmp_path, 3) == missing_class_images(tmp_path, 2) == []


def test_pictures_of_the_user_and_of_diffusers_count(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "my dog.png")
    Image.fromarray(PIXELS).save(tmp_path / f"1-{'0' * 40}.jpg")
    (tmp_path / "my dog.txt").write_text("a dog")
    assert missing_class_images(tmp_path, 5) == [0, 2, 3]


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        save_class_image(tmp_path, 0, np.zeros((2, 2, 3), np.int64), {})
    assert list(tmp_path.iterdir()) == []


def test_pictures_drawn_with_other_settings_are_named(tmp_path):
    save_class_image(tmp_path, 0, PIXELS, {"prompt": "a dog", "model": "x"})
    save_class_image(tmp_path, 1, PIXELS, {"prompt": "a cat", "model": "x"})
    Image.fromarray(PIXELS).save(tmp_path / "mine.png")
    assert drawn_otherwise(tmp_path, {"prompt": "a dog", "model": "x"}) == [
        f"{tmp_path}: 1 pictures were drawn with prompt 'a cat', not 'a dog'"
    ]
    assert drawn_otherwise(tmp_path / "nowhere", {"prompt": "a"}) == []
