"""Captions that do not fit are named by their pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxdream.training.recipes.long_captions import long_captions
from flaxdream.weights.tokenizer import read_tokenizer, tokenize, write_clip_tokenizer

LONG = " ".join(["dog"] * 75) + " with a red hat"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_clip_tokenizer(folder)
    return read_tokenizer(folder)


def test_a_caption_that_is_cut_is_named_with_its_pictures_and_what_is_lost(tokenizer):
    captioned = [(Path("a.png"), "a dog"), (Path("b.png"), LONG), (Path("c.png"), LONG), (Path("d.png"), "a cat")]
    assert long_captions(tokenizer, captioned) == [
        "b.png and 1 more: the caption is longer than 77 tokens; this part of it has no effect: 'with a red hat'"
    ]


def test_of_many_the_first_are_named_and_the_others_counted(tokenizer):
    lines = long_captions(tokenizer, [(Path(f"{n}.png"), f"{n} {LONG}") for n in range(8)])
    assert [line.split(":")[0] for line in lines[:5]] == [f"{n}.png" for n in range(5)]
    assert lines[5:] == ["and 3 more captions are longer than 77 tokens"]


def test_the_tokens_of_captions_that_were_named_are_made_without_a_second_warning(tokenizer, caplog):
    assert tokenize(tokenizer, [LONG], warn=False).shape == (1, 77) and not caplog.records
    tokenize(tokenizer, [LONG])
    assert "this part of it has no effect: 'with a red hat'" in caplog.text
