"""Folders under one prompt."""

from __future__ import annotations

import pytest
from PIL import Image

from flaxdream.data.prompted_folder import PromptedFolder


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("a caption")
    (tmp_path / "empty.png").touch()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "deep/c.png")
    return tmp_path


def test_all_pictures_have_the_prompt_and_sub_folders_are_not_entered(folder):
    pictures = PromptedFolder(folder, " a photo of\nsks dog ")
    assert [pictures.path(index).name for index in range(len(pictures))] == ["a.jpg", "b.png"]
    assert {pictures.captions(index) for index in range(2)} == {("a photo of sks dog",)}
    assert pictures.size(0) == (4, 6) and pictures.read(1).shape == (4, 6, 3)
    assert pictures.stored(1) == (folder / "b.png", None)
    assert pictures.left_out.counts == {"empty files": 1, "broken links": 1, "sub-folders": 1}
    assert "1 caption files are not used" in pictures.notes[-1]


def test_another_prompt_is_another_set(folder):
    prints = {PromptedFolder(folder, prompt).fingerprint for prompt in ("a dog", "a dog ", "a cat")}
    assert len(prints) == 2


def test_a_folder_without_pictures_says_what_lies_there(tmp_path):
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(ValueError, match=r"no picture in this folder; .*1 other files: a.doc"):
        PromptedFolder(tmp_path, "a dog")
    with pytest.raises(ValueError, match="there is no such folder"):
        PromptedFolder(tmp_path / "no", "a dog")
