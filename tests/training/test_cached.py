"""Moments of pictures: the same numbers however they are decoded, and devices that do not wait for the decoding."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from flaxdream.data.concept_pictures import Picture
from flaxdream.data.dreambooth import DreamBoothRows
from flaxdream.data.images import BrokenPicture, to_model_range
from flaxdream.data.loader import Loader, LoaderSettings
from flaxdream.data.shards import picture_shards
from flaxdream.training.recipes import cached

COUNT = 21


@pytest.fixture
def source(tmp_path):
    pictures = []
    for number in range(COUNT):
        path = tmp_path / f"{number:02d}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)).save(path)
        pictures.append(Picture(path, "a picture", 0, False))
    return DreamBoothRows(pictures, 1, 0)


@pytest.fixture
def sent(monkeypatch):
    """An encoder that gives back its pixels; the number of batches that it was sent."""
    batches = []

    @jax.jit
    def moments(pixels):
        return pixels, -pixels

    monkeypatch.setattr(cached, "encode_pictures", lambda vae, params, pixels: batches.append(1) or moments(pixels))
    return batches


def encoder(source, num_workers=0):
    loader = Loader(source, LoaderSettings((8, 8), num_workers=num_workers, cache_bytes=0))
    return loader, cached.picture_encoder(None, {}, loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_picture_has_its_moments_in_memory_and_on_disk(source, sent, num_workers, tmp_path, monkeypatch):
    monkeypatch.setattr("flaxdream.data.shards.GROUP", 10)
    loader, encode = encoder(source, num_workers)
    kept = cached.in_memory(source, encode, "latents")
    shards = cached.on_disk(picture_shards(tmp_path / "cache", source, "test"), encode, "latents")
    assert len(shards.groups) == 3
    for index in range(COUNT):
        pixels = to_model_range(loader.picture(index).pixels)
        np.testing.assert_array_equal(kept[index], [pixels, -pixels])
        np.testing.assert_array_equal(shards[index], kept[index])


def test_the_next_batch_is_with_the_devices_before_the_last_is_fetched(source, sent):
    encode = encoder(source)[1]
    sent_when_told, told = [], []

    def progress(count):
        sent_when_told.append(len(sent))
        told.append(count)

    groups = [range(16), range(16, COUNT)]  # 8 devices, a picture each
    assert [len(rows) for rows in encode(groups, progress)] == [16, 5]
    assert told == [8, 8, 5]
    assert sent_when_told == [2, 3, 3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_picture_is_named_and_what_came_before_is_kept(source, sent, num_workers, tmp_path, monkeypatch):
    monkeypatch.setattr("flaxdream.data.shards.GROUP", 4)
    shards = picture_shards(tmp_path / "cache", source, "test")
    source.path(18).write_bytes(b"no picture")
    with pytest.raises(BrokenPicture, match=r"18.png"):
        cached.on_disk(shards, encoder(source, num_workers)[1], "latents")
    assert shards.missing()[-2:] == [4, 5] and 0 not in shards.missing()
