"""Prompt files."""

from __future__ import annotations

import pytest

from flaxdream.sampling.prompts import Request, parse_prompt_line, read_prompts_file


def test_a_line_without_options_is_a_prompt():
    assert parse_prompt_line(" a red fox, 4k \n") == Request("a red fox, 4k")


def test_kohya_options_are_read():
    line = "a red fox --n blurry, bad --w 512 --h 768 --d 7 --l 7.5 --s 28"
    assert parse_prompt_line(line) == Request("a red fox", "blurry, bad", 512, 768, 7, 7.5, 28)


def test_dashes_inside_words_are_no_options():
    assert parse_prompt_line("a well--known fox -- in snow").prompt == "a well--known fox -- in snow"


def test_the_file_skips_comments_and_empty_lines(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\ufeff# heading\n\na fox\n  # another\na dog --d 3\n", encoding="utf-8")
    assert read_prompts_file(path) == [Request("a fox"), Request("a dog", seed=3)]


def test_every_bad_line_is_named_with_its_number(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a fox --w wide\nfine\na fox --x 3\n", encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_prompts_file(path)
    assert ":1: --w 'wide' is not width (int)" in str(error.value)
    assert ":3: --x is not an option of a prompt line; known: --n" in str(error.value)


@pytest.mark.parametrize("content", [None, b"# nothing\n", b"\xff\xfe\x00bad"])
def test_a_missing_empty_or_binary_file_is_refused(tmp_path, content):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.txt"):
        read_prompts_file(path)
