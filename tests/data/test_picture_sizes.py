"""Sizes of all pictures, read once."""

from __future__ import annotations

import pytest

from flaxdream.data import picture_sizes as room
from flaxdream.data.images import BrokenPicture
from flaxdream.data.picture_sizes import picture_sizes
from tests.data.test_captioned import Numbered


class Counted(Numbered):
    """Counts how often a header is read; picture 3 cannot be read until it is mended."""

    def __init__(self, count):
        super().__init__(count)
        self.asked, self.mended = [], False

    def size(self, index):
        self.asked.append(index)
        if index == 3 and not self.mended:
            raise BrokenPicture(self.path(index), "damaged")
        return (index + 1, 7)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_sizes_come_in_order_and_what_is_broken_is_named(num_workers, monkeypatch):
    monkeypatch.setattr(room, "CHUNK", 4)
    done = []
    found = picture_sizes(Counted(10), num_workers=num_workers, progress=lambda *counts: done.append(counts))
    assert found.sizes.tolist() == [[index + 1, 7] if index != 3 else [0, 0] for index in range(10)]
    assert [str(problem) for problem in found.broken] == ["3.png: damaged"]
    assert done == [(4, 10), (8, 10), (10, 10)]


def test_sizes_are_kept_on_disk_and_broken_pictures_are_asked_again(tmp_path):
    pictures = Counted(5)
    first = picture_sizes(pictures, folder=tmp_path / "cache")
    again = picture_sizes(pictures, folder=tmp_path / "cache")
    assert again.sizes.tolist() == first.sizes.tolist() and pictures.asked == [0, 1, 2, 3, 4, 3]
    pictures.mended = True
    assert picture_sizes(pictures, folder=tmp_path / "cache").sizes.tolist()[3] == [4, 7]
    picture_sizes(pictures, folder=tmp_path / "cache")
    assert pictures.asked == [0, 1, 2, 3, 4, 3, 3]
    pictures.fingerprint = "others"
    picture_sizes(pictures, folder=tmp_path / "cache")
    assert len(pictures.asked) == 12


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY broken"])
def test_a_damaged_file_is_read_anew(tmp_path, content):
    (tmp_path / "sizes-x.npy").write_bytes(content)
    assert picture_sizes(Counted(2), folder=tmp_path).sizes.tolist() == [[1, 7], [2, 7]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sizes-x.npy"]
