"""Arrays to pictures and files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flaxdream.sampling.pictures import contact_sheet, numpy_to_pil, save_png


def test_values_are_rounded_as_diffusers_rounds_them():
    from diffusers.image_processor import VaeImageProcessor

    pixels = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
    ours, theirs = numpy_to_pil(pixels), VaeImageProcessor.numpy_to_pil(pixels)
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_single_picture_needs_no_batch_axis():
    assert [p.size for p in numpy_to_pil(np.zeros((4, 6, 3)))] == [(6, 4)]


def test_a_png_carries_its_settings(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, Image.new("RGB", (4, 4)), {"prompt": "größer --n x", "seed": 7})
    with Image.open(path) as picture:
        text = picture.text
    assert text == {"prompt": "größer --n x", "seed": "7"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError):
        save_png(path, Image.new("CMYK", (4, 4)), {})  # PNG has no CMYK
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_contact_sheet_shows_every_picture_fitted_into_its_cell():
    colours = ["red", "green", "blue"]
    sheet = contact_sheet([Image.new("RGB", (64, 32 * i + 32), c) for i, c in enumerate(colours)], colours, cell=64)
    pixels = np.asarray(sheet).reshape(-1, 3)
    for colour in colours:
        assert (pixels == np.asarray(Image.new("RGB", (1, 1), colour))[0, 0]).all(1).sum() > 1000
