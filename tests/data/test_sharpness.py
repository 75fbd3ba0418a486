"""Sharpness by the Laplacian."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from flaxdream.data.sharpness import sharpness
from tests.data.photos import photo


def grey(image):
    return np.asarray(image.convert("L"), np.float32)


def blurred(image, radius):
    return image.filter(ImageFilter.GaussianBlur(radius))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(96, 128), (256, 320), (512, 512)])
def test_a_sharp_picture_lies_above_3_and_a_blurred_one_below_1(seed, size):
    image = photo(seed, *size)
    assert sharpness(grey(image)) > 3
    assert sharpness(grey(blurred(image, 2.5))) < 1


def test_more_blur_is_less_sharp():
    values = [sharpness(grey(blurred(photo(0), radius))) for radius in (0, 0.5, 1, 1.5, 2)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("radius", [0, 2.5])
def test_a_flat_light_changes_no_verdict(radius):
    image = grey(blurred(photo(1), radius))
    foggy = 120 + image / 4
    assert (sharpness(image) < 1) == (sharpness(foggy) < 1) == (radius > 0)


def test_a_soft_background_does_not_make_a_portrait_blurred():
    portrait = blurred(photo(2), 6)
    portrait.paste(photo(2).crop((100, 60, 220, 200)), (100, 60))
    assert sharpness(grey(portrait)) > 3


def test_grain_does_not_make_a_blurred_picture_sharp():
    soft = grey(blurred(photo(3, 512, 512), 3))
    grainy = soft + np.random.default_rng(0).normal(0, 1.5, soft.shape).astype(np.float32)
    assert sharpness(grainy) < 1


def test_an_enlarged_picture_counts_as_blurred():
    small = photo(4, 64, 80)
    assert sharpness(grey(small.resize((640, 512), Image.Resampling.BICUBIC))) < 1 < sharpness(grey(small))


@pytest.mark.parametrize("shape", [(1, 1), (4, 300), (5, 5)])
def test_of_a_picture_of_a_few_pixels_nothing_can_be_said(shape):
    assert np.isnan(sharpness(np.zeros(shape, np.float32)))


def test_a_picture_of_one_colour_has_no_sharpness():
    assert sharpness(np.full((200, 200), 77, np.float32)) == 0
