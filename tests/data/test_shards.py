"""Rows on disk: whole files or none, the same bytes whoever writes them, and no file that does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flaxdream.data import shards as rooms
from flaxdream.data.shards import caption_shards, picture_shards


class Source:
    """Five pictures of two sizes, as bytes."""

    def __init__(self, data=(b"a", b"b", b"c", b"d", b"e")):
        self.data = data

    def __len__(self):
        return len(self.data)

    def resolution(self, index):
        return (8, 16) if index % 2 else (16, 8)

    def stored(self, index):
        return index, self.data[index]


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(rooms, "GROUP", 2)


def rows(group):
    return np.stack([np.full((2, 3), index, np.float32) for index in group])


def fill(shards, count=None):
    for number in shards.missing()[:count]:
        shards.write(number, rows(shards.groups[number]))
    return shards


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_of_one_size_share_files_and_each_has_its_row(tmp_path):
    shards = fill(picture_shards(tmp_path, Source(), "maker"))
    assert shards.groups == [[0, 2], [4], [1, 3]] and shards.missing() == []
    assert [shards[index][0, 0] for index in range(5)] == [0, 1, 2, 3, 4]
    assert len(bytes_of(tmp_path)) == 2 * len(shards.groups)


def test_a_build_that_stopped_goes_on_and_ends_with_the_same_bytes(tmp_path):
    fill(picture_shards(tmp_path / "whole", Source(), "maker"))
    fill(picture_shards(tmp_path / "parts", Source(), "maker"), count=1)
    again = picture_shards(tmp_path / "parts", Source(), "maker")
    assert len(again.missing()) == 2
    fill(again)
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "parts")


def test_a_file_without_its_record_does_not_count(tmp_path):
    shards = fill(picture_shards(tmp_path, Source(), "maker"))
    next(tmp_path.glob("*.json")).unlink()
    assert len(picture_shards(tmp_path, Source(), "maker").missing()) == 1
    assert len(shards.missing()) == 1


def test_another_maker_or_an_edited_picture_meets_no_old_file(tmp_path):
    fill(picture_shards(tmp_path, Source(), "maker"))
    assert len(picture_shards(tmp_path, Source(), "another").missing()) == 3
    assert picture_shards(tmp_path, Source((b"a", b"B", b"c", b"d", b"e")), "maker").missing() == [2]


def test_damage_is_told_and_only_that_file_is_made_anew(tmp_path):
    shards = fill(picture_shards(tmp_path, Source(), "maker"))
    record = next(tmp_path.glob("*.json"))
    file = record.with_suffix(".npy")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    fresh = picture_shards(tmp_path, Source(), "maker")
    with pytest.raises(ValueError, match="damaged or gone"):
        [fresh[index] for index in range(5)]
    assert len(fresh.missing()) == 1
    assert [fill(fresh)[index][1, 2] for index in range(5)] == [0, 1, 2, 3, 4]
    assert json.loads(record.read_text())["shape"] == list(shards[0].shape[:0]) + [len(np.load(file)), 2, 3]


def test_captions_are_named_by_their_text(tmp_path):
    captions = ["a", "b", "c"]
    fill(caption_shards(tmp_path, captions, "maker"))
    assert caption_shards(tmp_path, captions, "maker").missing() == []
    assert caption_shards(tmp_path, ["a", "b", "d"], "maker").missing() == [1]
