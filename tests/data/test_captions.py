"""Captions from prompts, text files and file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxdream.data.captions import SOURCES, caption_from_name, caption_of, captions_of


@pytest.fixture
def picture(tmp_path):
    return tmp_path / "dog.png"


def test_one_prompt_is_the_caption_of_every_picture(picture):
    assert captions_of([picture, picture], "prompt", " a photo of\nsks dog ") == (["a photo of sks dog"] * 2, [])


def test_text_files_beside_the_picture_are_captions(picture, tmp_path):
    (tmp_path / "dog.txt").write_text("﻿ein großer\r\nHund \n", encoding="utf-8")
    (tmp_path / "dog.png.txt").write_text("another", encoding="utf-8")
    assert caption_of(picture, "txt", "prompt") == "ein großer Hund"
    assert caption_of(picture, "image_txt", "prompt") == "another"


def test_the_prompt_is_joined_with_the_text(picture, tmp_path):
    (tmp_path / "dog.txt").write_text("on a beach\n")
    assert caption_of(picture, "prompt_and_txt", "sks dog") == "sks dog, on a beach"
    assert caption_of(picture, "prompt_and_txt", "sks dog", "{TXT_PROMPT} with {PROMPT}") == "on a beach with sks dog"
    with pytest.raises(ValueError, match="lacks {TXT_PROMPT}"):
        captions_of([picture], "prompt_and_txt", "sks dog", "{PROMPT}")


def test_a_text_file_is_optional_where_the_prompt_can_stand_in(picture, tmp_path):
    assert caption_of(picture, "txt_or_prompt", "a dog") == "a dog"
    for name in ("dog.caption", "dog.txt", "dog.png.txt"):
        (tmp_path / name).write_text(name)
        assert caption_of(picture, "txt_or_prompt", "a dog") == name
        (tmp_path / name).unlink()
    (tmp_path / "dog.txt").write_text("one")
    (tmp_path / "dog.png.txt").write_text("two")
    with pytest.raises(ValueError, match=r"two captions, dog.txt and dog.png.txt"):
        caption_of(picture, "txt_or_prompt", "a dog")


def test_every_missing_caption_is_named_with_its_picture(tmp_path):
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.txt").write_bytes("größer".encode("latin-1"))
    (tmp_path / "d.txt").write_text("d")
    captions, problems = captions_of([tmp_path / f"{name}.png" for name in "abcd"], "txt")
    assert captions == ["", "", "", "d"]
    assert problems == [
        f"{tmp_path / 'a.png'} has no caption: a.txt is missing",
        f"{tmp_path / 'b.png'} has no caption: b.txt is empty",
        f"{tmp_path / 'c.txt'} is not UTF-8 text; save it again as UTF-8",
    ]


@pytest.mark.parametrize("source", ["prompt", "prompt_and_txt", "txt_or_prompt"])
def test_a_missing_prompt_is_named_once(tmp_path, source):
    for name in "ab" if source == "prompt_and_txt" else "":
        (tmp_path / f"{name}.txt").write_text("x")
    _, problems = captions_of([tmp_path / "a.png", tmp_path / "b.png"], source, " ")
    assert problems == [f"{tmp_path}: its pictures need a prompt, and there is none"]


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a red dog.png", "a red dog"),
        ("a_red_dog_12.png", "a red dog"),
        ("a red dog (3).jpeg", "a red dog"),
        ("a_red_dog_12 (3).png", "a red dog"),
        ("1girl, solo__2.png", "1girl, solo"),
        ("portrait of v1.5 robot.webp", "portrait of v1.5 robot"),
        ("собака_7.png", "собака"),
    ],
)
def test_a_file_name_becomes_a_caption(name, caption):
    assert caption_from_name(Path(name)) == caption
    assert caption_of(Path(name), "filename", "unused") == caption


@pytest.mark.parametrize("name", ["12.png", "_12.png", "(3).png", "__.png"])
def test_a_file_name_without_words_is_a_problem(name):
    with pytest.raises(ValueError, match="holds no words"):
        caption_from_name(Path(name))


def test_an_unknown_source_is_refused_with_the_list(picture):
    with pytest.raises(ValueError, match=", ".join(SOURCES)):
        caption_of(picture, "json")
