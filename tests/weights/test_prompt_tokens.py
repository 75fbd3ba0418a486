"""How prompts split into tokens."""

from __future__ import annotations

import pytest

from flaxdream.weights import prompt_tokens
from flaxdream.weights.prompt_tokens import cut_part, lengths, words
from flaxdream.weights.tokenizer import clip_tokenizer, tokenize


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


@pytest.mark.parametrize(
    ("prompt", "split"),
    [
        ("a photo of sks dog", [[("a", 320)], [("photo", 1125)], [("of", 539)], [("sks", 48136)], [("dog", 1929)]]),
        ("A  Café, 日本", [[("A", 320)], [("Café", 15304)], [(",", 267)], [("日", 39121), ("本", 19277), ("本", 361)]]),
        ("ZwxQQ's", [[("Z", 89), ("wx", 18192), ("Q", 80), ("Q", 336)], [("'s", 568)]]),
        ("", []),
    ],
)
def test_words_are_shown_as_they_stand_with_their_ids(tokenizer, prompt, split):
    assert [[tuple(piece) for piece in word] for word in words(tokenizer, prompt)] == split


def test_the_pieces_are_the_ids_that_training_uses(tokenizer):
    prompt = "a photo of zwxqq dog's café, (masterpiece:1.2) 🐶"
    ids = [piece.id for word in words(tokenizer, prompt) for piece in word]
    assert [49406, *ids, 49407] == tokenize(tokenizer, [prompt])[0, : len(ids) + 2].tolist()


def test_lengths_count_start_and_end_and_are_not_cut(tokenizer, monkeypatch):
    monkeypatch.setattr(prompt_tokens, "CHUNK", 2)
    assert lengths(tokenizer, ["", "a dog", "dog " * 75, "dog " * 76, "dog " * 200]).tolist() == [2, 4, 77, 78, 202]
    assert lengths(tokenizer, []).tolist() == []


def test_the_part_that_is_cut_is_that_which_no_token_holds(tokenizer):
    assert cut_part(tokenizer, "Dog " * 75) == ""
    assert cut_part(tokenizer, "Dog " * 75 + "Red  House") == "Red  House"
    caption = "Dog " * 74 + "zwxqq End"
    row = tokenize(tokenizer, [caption], warn=False)[0]
    assert tokenizer.decode(row[75:76]).strip() == "z" and cut_part(tokenizer, caption) == "wxqq End"
