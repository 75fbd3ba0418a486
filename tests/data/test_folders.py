"""What a folder holds, and which of its pictures are broken."""

from __future__ import annotations

import pytest
from PIL import Image

from flaxdream.data.folders import check_pictures, scan_folder


def save(path):
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three pictures and everything that made the old scripts crash."""
    for name in ("b.png", "a.JPG", "c.webp"):
        save(tmp_path / name)
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "b.png.txt").write_text("a cat")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "._a.JPG", ".hidden.png"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "linked.png").symlink_to(tmp_path / "b.png")
    for name in (".cache", "sub.png"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "inner.png")
    return tmp_path


def test_pictures_are_found_by_name_and_nothing_else_is(folder):
    assert [path.name for path in scan_folder(folder).pictures] == ["a.JPG", "b.png", "c.webp", "linked.png"]


def test_caption_files_are_known_by_their_pictures(folder):
    assert [path.name for path in scan_folder(folder).captions] == ["a.txt", "b.png.txt"]


def test_all_that_was_left_out_is_named_in_one_line(folder):
    line = scan_folder(folder).skipped_line()
    assert "\n" not in line and line.startswith(f"{folder}: 4 pictures; left out ")
    assert "2 sub-folder" in line and "5 other file" in line and "1 empty file" in line and "1 broken link" in line
    assert line.endswith(": .DS_Store, ._a.JPG, .cache, .hidden.png, Thumbs.db, and 4 more")


def test_a_clean_folder_has_nothing_to_say(tmp_path):
    save(tmp_path / "a.png")
    assert scan_folder(tmp_path).skipped_line() is None


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        scan_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="this is a file"):
        scan_folder(save(tmp_path / "a.png"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_check_reports_all_broken_pictures_at_once_and_its_progress(tmp_path, num_workers):
    good = [save(tmp_path / f"{number}.png") for number in range(3)]
    bad = [tmp_path / "x.png", tmp_path / "y.png"]
    for path in bad:
        path.write_bytes(good[0].read_bytes()[:40])
    seen = []
    problems = check_pictures([bad[0], *good, bad[1], good[0]], lambda *counts: seen.append(counts), num_workers)
    assert [problem.path for problem in problems] == bad
    assert seen == [(done, 5) for done in range(1, 6)]  # a picture named twice is read once
