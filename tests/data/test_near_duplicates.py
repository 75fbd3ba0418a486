"""Copies are found by what they show, and other pictures are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from flaxdream.data import near_duplicates
from flaxdream.data.near_duplicates import MOST_BITS, alike, area_means, close_pairs, difference_hash, thumbnail
from tests.data.photos import photo


def features(images):
    pixels = [np.asarray(image.convert("RGB")) for image in images]
    return np.array([difference_hash(p) for p in pixels]), np.array([thumbnail(p) for p in pixels])


def groups(images):
    return [group.tolist() for group in alike(*features(images))]


def as_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


COPIES = {
    "saved as a poor JPEG": as_jpeg,
    "at 40 %": lambda image: image.resize((image.width * 2 // 5, image.height * 2 // 5)),
    "stretched": lambda image: image.resize((image.width, image.height * 5 // 4)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "with less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "with more colour": lambda image: ImageEnhance.Color(image).enhance(1.3),
    "without its edges": lambda image: image.crop((4, 3, image.width - 4, image.height - 3)),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_is_found(change):
    originals = [photo(seed) for seed in range(12)]
    copies = [COPIES[change](image) for image in originals]
    assert groups(originals + copies) == [[seed, seed + 12] for seed in range(12)]


def test_other_pictures_form_no_group():
    assert groups([photo(seed, 64, 80) for seed in range(300)]) == []


def test_a_group_holds_all_copies_of_a_picture_in_order():
    image = photo(1)
    assert groups([photo(2), image, photo(3), as_jpeg(image), image.resize((160, 128))]) == [[1, 3, 4]]


def test_pictures_of_one_colour_and_no_pictures_form_no_group():
    assert groups([Image.new("RGB", (20, 20), color) for color in ("white", "white", "black", "grey")]) == []
    assert alike(np.zeros((0, 2), np.uint64), np.zeros((0, 16, 16, 3), np.uint8)) == []


def test_the_same_hash_with_another_thumbnail_is_no_copy():
    hashes, thumbs = features([photo(seed) for seed in range(4)])
    assert alike(np.repeat(hashes[:1], 4, axis=0), thumbs) == []


def flipped(hash_bits, count, rng):
    bits = hash_bits.copy()
    bits[rng.permutation(128)[:count]] ^= 1
    return bits


@pytest.mark.parametrize("differing", [0, 1, 6, MOST_BITS])
def test_every_pair_that_differs_in_few_bits_is_found(differing):
    rng = np.random.default_rng(differing)
    bits = rng.integers(0, 2, (2000, 128), dtype=np.uint8)
    bits[1000:] = [flipped(row, differing, rng) for row in bits[:1000]]
    found = {tuple(sorted(pair)) for pairs in close_pairs(packed(bits)) for pair in zip(*map(np.ndarray.tolist, pairs))}
    assert found == {(index, index + 1000) for index in range(1000)}


def packed(bits):
    return np.packbits(bits, axis=1).view(np.uint64)


def test_pairs_that_differ_in_more_bits_are_not_close():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (500, 128), dtype=np.uint8)
    other = np.array([flipped(row, MOST_BITS + 1, rng) for row in bits])
    assert not list(close_pairs(packed(np.concatenate([bits, other]))))


def test_hashes_with_few_bits_must_differ_in_fewer():
    bits = np.zeros((2, 128), np.uint8)
    bits[0, :6], bits[1, 3:9] = 1, 1  # 6 differ, of 12 that are set
    assert not list(close_pairs(packed(bits)))
    bits[1] = bits[0]
    bits[1, 0] = 0
    assert list(close_pairs(packed(bits)))


def test_copies_are_found_in_a_bucket_that_is_too_large_to_compare_all(monkeypatch):
    monkeypatch.setattr(near_duplicates, "LONGEST_WALK", 2)
    images = [photo(seed) for seed in range(40)]
    hashes, thumbs = features(images + [as_jpeg(images[7])])
    assert [group.tolist() for group in alike(np.repeat(hashes[:1], 41, axis=0), thumbs)] == [[7, 40]]


def test_area_means_are_means_also_where_cells_do_not_fit_the_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    assert np.allclose(area_means(picture, (4, 3)), picture.reshape(4, 3, 3, 3, 3).mean(axis=(1, 3)), atol=1e-4)
    assert np.allclose(area_means(picture, (7, 5)).mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=1e-3)
    assert np.allclose(area_means(picture[:2, :1], (4, 3)), np.repeat(picture[:2, :1], 2, axis=0), atol=1e-4)
