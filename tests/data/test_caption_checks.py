"""Pictures without captions, and captions without pictures."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from flaxdream.data.caption_checks import lost_captions, missing_captions
from flaxdream.data.folder_captions import FolderCaptions
from flaxdream.data.folder_set import FolderSet
from flaxdream.data.picture_set import Part


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a", "b", "c", "deep/d"):
        Image.new("RGB", (6, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a dog")
    return tmp_path


def without_caption(folder, missing_caption="leave_out", captions="auto"):
    pictures = FolderSet(folder, captions=captions, missing_caption="empty")
    return list(missing_captions(pictures, missing_caption, FolderCaptions(folder, captions, "text", False)))


def test_each_picture_without_caption_is_named_with_the_reason(folder):
    (folder / "b.txt").write_text("x")
    (folder / "b.caption").write_text("x")
    (folder / "c.txt").write_bytes(b"caf\xe9")
    (finding,) = without_caption(folder)
    assert (finding.level, finding.title) == ("error", "3 pictures without a caption")
    assert [(case.names[0], case.detail) for case in finding.cases] == [
        ("b.png", "with two caption files"), ("c.png", "with a caption that is not UTF-8"), ("deep/d.png", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "level", "advice"),
    [("leave_out", "error", "goes on without"), ("error", "error", "stops here"), ("empty", "note", "empty prompt")],
)
def test_the_advice_is_that_of_the_setting(folder, setting, level, advice):
    (finding,) = without_caption(folder, setting)
    assert finding.level == level and advice in finding.advice


def test_a_set_with_all_captions_has_no_finding(folder):
    assert not without_caption(folder, captions="filename")


def lost(folder, captions="auto"):
    pictures = FolderSet(folder, captions=captions, missing_caption="empty")
    for checked in (pictures, Part(pictures, [0])):
        found = list(lost_captions(checked, captions, "text"))
    return {finding.kind: (finding.level, [case.names[0] for case in finding.cases]) for finding in found}


def test_texts_without_a_picture_are_a_note(folder):
    (folder / "deep/d.png.txt").write_text("a dog")
    (folder / "deep/e.txt").write_text("a dog that went away")
    (folder / "readme.caption").write_text("x")
    (folder / ".hidden").mkdir()
    (folder / ".hidden/f.txt").write_text("x")
    assert lost(folder) == {"lost_texts": ("note", ["readme.caption", "deep/e.txt"])}
    assert lost(folder, "filename") == {}


def test_rows_of_metadata_without_a_picture_are_a_warning(folder):
    rows = [{"file_name": name, "text": "a dog"} for name in ("a.png", "gone.png", "deep/d.png", "deep/gone.png")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "deep/lone.txt").write_text("not looked at: the metadata is above it")
    expected = ("warning", ["metadata.jsonl: gone.png", "metadata.jsonl: deep/gone.png"])
    assert lost(folder) == {"lost_rows": expected}
    assert lost(folder, "metadata") == {"lost_rows": expected}
    assert lost(folder, "txt") == {"lost_texts": ("note", ["deep/lone.txt"])}
