"""Folders of captioned pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flaxdream.data.folder_set import FolderSet
from flaxdream.data.images import BrokenPicture


def picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 4 + number, 3), number, np.uint8)).save(path)


def captions(pictures):
    return {pictures.path(index).name: pictures.captions(index) for index in range(len(pictures))}


@pytest.fixture
def folder(tmp_path):
    """Three captioned pictures, one of them in a sub-folder."""
    for number, (name, text) in enumerate(
        [("a.png", "a.txt"), ("b.jpg", "b.caption"), ("deep/c.png", "deep/c.png.txt")]
    ):
        picture(tmp_path / name, number)
        (tmp_path / text).write_text(f" a \n photo of {name[-5]}\n", encoding="utf-8")
    return tmp_path


def test_captions_lie_beside_the_pictures_and_sub_folders_are_entered(folder):
    found = FolderSet(folder)
    assert captions(found) == {"a.png": ("a photo of a",), "b.jpg": ("a photo of b",), "c.png": ("a photo of c",)}
    assert [found.size(index) for index in range(3)] == [(6, 4), (6, 5), (6, 6)]
    assert found.read(2).shape == (6, 6, 3) and found.path(2) == folder / "deep/c.png"
    assert found.notes == () and found.name == str(folder)


def test_lines_may_be_captions_of_their_own(folder):
    (folder / "a.txt").write_text("one dog\n\n two  dogs \n")
    assert captions(FolderSet(folder, caption_per_line=True))["a.png"] == ("one dog", "two dogs")


def test_what_is_left_out_is_counted_and_named(folder):
    for name in ("no1.png", "no2.png", "empty.png", "utf.png", "two.png"):
        picture(folder / name)
    (folder / "empty.txt").write_text(" \n")
    (folder / "utf.txt").write_bytes(b"caf\xe9")
    (folder / "two.txt").write_text("x")
    (folder / "two.caption").write_text("x")
    (folder / "hollow.png").touch()
    (folder / ".DS_Store").touch()
    (folder / "link.png").symlink_to("nowhere.png")
    picture(folder / ".cache/huggingface/d.png")
    found = FolderSet(folder)
    assert len(found) == 3
    assert set(found.notes) == {
        f"{folder}: left out {what}"
        for what in (
            "2 pictures without caption: no1.png, no2.png",
            "1 pictures with an empty caption file: empty.png",
            "1 pictures with a caption that is not UTF-8: utf.png",
            "1 pictures with two caption files: two.png",
            "1 empty files: hollow.png",
            "1 other files: .DS_Store",
            "1 broken links: link.png",
        )
    }


def test_a_long_list_of_names_is_cut(folder):
    for number in range(8):
        picture(folder / f"no{number}.png")
    assert any(note.endswith("no3.png, no4.png, and 3 more") for note in FolderSet(folder).notes)


def test_missing_captions_may_be_empty_prompts_or_errors(folder):
    picture(folder / "no.png")
    assert captions(FolderSet(folder, missing_caption="empty"))["no.png"] == ("",)
    with pytest.raises(ValueError, match="no.png is one of the pictures without caption"):
        FolderSet(folder, missing_caption="error")
    with pytest.raises(ValueError, match="missing caption 'ignore' is not one of leave_out, empty, error"):
        FolderSet(folder, missing_caption="ignore")


def test_file_names_are_captions_where_asked_for(tmp_path):
    picture(tmp_path / "a_red_dog (2).png")
    picture(tmp_path / "0001.png")
    found = FolderSet(tmp_path, captions="filename")
    assert captions(found) == {"a_red_dog (2).png": ("a red dog",)}
    assert found.notes == (f"{tmp_path}: left out 1 pictures with no words in their name: 0001.png",)


def write_metadata(folder, kind, rows):
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows) + "\n"
    else:
        text = (
            ",".join(rows[0]) + "\n" + "".join(",".join(f'"{value}"' for value in row.values()) + "\n" for row in rows)
        )
    (folder / f"metadata.{kind}").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_metadata_file_gives_captions_as_for_hugging_face(tmp_path, kind):
    for name in ("train/a.png", "train/deep/b.png", "train/c.png"):
        picture(tmp_path / name)
    rows = [{"file_name": "a.png", "text": "dog,  red"}, {"file_name": "deep/b.png", "text": "cat"}]
    write_metadata(tmp_path / "train", kind, rows)
    found = FolderSet(tmp_path)
    assert captions(found) == {"a.png": ("dog, red",), "b.png": ("cat",)}
    assert found.notes == (f"{tmp_path}/train: left out 1 pictures that metadata.{kind} does not list: c.png",)


def test_metadata_may_lie_above_and_hold_several_captions_and_none(tmp_path):
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        picture(tmp_path / name)
    rows = [
        {"file_name": "train/a.png", "caption": ["one", " ", "two"]},
        {"file_name": "train/b.png", "caption": None},
        {"file_name": "val/c.png", "caption": "three"},
    ]
    write_metadata(tmp_path, "jsonl", rows)
    assert captions(FolderSet(tmp_path, caption_column="caption")) == {"a.png": ("one", "two")}
    assert captions(FolderSet(tmp_path, "validation", caption_column="caption")) == {"c.png": ("three",)}


def test_entries_without_their_picture_are_counted_and_named(tmp_path):
    for name in ("train/a.png", "val/b.png"):
        picture(tmp_path / name)
    rows = [{"file_name": name, "text": "x"} for name in ("train/a.png", "train/gone.png", "val/b.png")]
    write_metadata(tmp_path, "jsonl", rows)
    found = FolderSet(tmp_path)
    assert len(found) == 1
    assert found.notes == (
        f"{tmp_path}/train: left out 1 entries of metadata.jsonl whose picture is not there: train/gone.png",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"file_name": "a.png", "prompt": "x", "size": 3}\n',
            r"no column 'text' \(--caption_column\); it has prompt, size",
        ),
        ('{"file_name": "a.png", "text": "x"}\n{"text": "y"}\n', "line 2: no 'file_name'; its columns are text"),
        ('{"file_name": "a.png", \n', "line 1 is not valid JSON"),
        ("[1]\n", "line 1: expected an object such as"),
        ('{"file_name": "a.png", "text": 5}\n', "line 1, text: '5' is int; expected a text or a list of texts"),
    ],
)
def test_a_damaged_metadata_file_is_an_error_with_its_line(folder, text, message):
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        FolderSet(folder)


def test_two_metadata_files_are_an_error_and_text_files_can_be_asked_for(folder):
    (folder / "metadata.jsonl").write_text("")
    (folder / "metadata.csv").write_text("")
    with pytest.raises(ValueError, match="has metadata.jsonl and metadata.csv; keep one"):
        FolderSet(folder)
    assert len(FolderSet(folder, captions="txt")) == 3


def test_the_train_split_is_without_the_pictures_of_others(folder):
    picture(folder / "valid/v.png")
    (folder / "valid/v.txt").write_text("v")
    assert set(captions(FolderSet(folder))) == {"a.png", "b.jpg", "c.png"}
    assert captions(FolderSet(folder, "validation")) == {"v.png": ("v",)}
    with pytest.raises(ValueError, match="has no folder test or testing or eval or evaluation, so no test split"):
        FolderSet(folder, "test")
    with pytest.raises(ValueError, match="split 'dev' is not one of train, validation, test"):
        FolderSet(folder, "dev")


def test_a_folder_without_captions_says_what_was_expected(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"no picture with a caption; .*left out 1 pictures without caption: a.png; expec"
    ):
        FolderSet(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        FolderSet(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="this is a file"):
        FolderSet(tmp_path / "a.png")


def test_links_that_lead_in_a_circle_are_followed_once(folder):
    (folder / "deep/up").symlink_to(folder)
    assert len(FolderSet(folder)) == 3


def test_the_fingerprint_follows_names_bytes_and_captions(folder):
    first = FolderSet(folder).fingerprint
    assert FolderSet(folder).fingerprint == first
    (folder / "a.txt").write_text("another")
    second = FolderSet(folder).fingerprint
    picture(folder / "a.png", 9)
    third = FolderSet(folder).fingerprint
    (folder / "deep").rename(folder / "e")
    assert len({first, second, third, FolderSet(folder).fingerprint}) == 4


def test_a_broken_picture_is_found_when_it_is_read(folder):
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(BrokenPicture, match="a.png"):
        FolderSet(folder).read(0)
