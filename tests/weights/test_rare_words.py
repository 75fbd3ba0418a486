"""Words that can name a subject."""

from __future__ import annotations

import pytest

from flaxdream.weights.rare_words import KNOWN, RARE, SHAPE, judged, proposals
from flaxdream.weights.tokenizer import clip_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


def test_proposals_are_single_rare_tokens_the_rarest_first(tokenizer):
    found = proposals(tokenizer, 40)
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in found]
    assert len(set(found)) == 40 and all(len(one) == 1 for one in ids)
    ranks = [one[0] for one in ids]
    assert ranks == sorted(ranks, reverse=True) and ranks[-1] >= RARE
    assert all(SHAPE.fullmatch(word) and word not in KNOWN for word in found)
    assert proposals(tokenizer, 5) == found[:5]


def test_the_words_that_are_left_out_would_be_proposed_without_that(tokenizer):
    rare = {token.removesuffix("</w>") for token, number in tokenizer.get_vocab().items() if number >= RARE}
    assert {word for word in KNOWN if word not in rare or not SHAPE.fullmatch(word)} == set()


@pytest.mark.parametrize(
    ("prompt", "word", "expected", "is_good", "text"),
    [
        ("a photo of sks dog", None, "sks", True, "'sks' is one token, and a rare one (rank 48136)"),
        ("a photo of SKS dog", None, "SKS", True, "rank 48136"),
        ("sks", None, "sks", True, "rank 48136"),
        ("a photo of zwxqq dog", None, "zwxqq", False, "'zwxqq' is 4 tokens, z|wx|q|q, each with a meaning"),
        ("a photo of zwxqq dog", "sks", "sks", True, "rank 48136"),
        ("a photo of sks dog", "dog", "dog", False, "'dog' is one token, but a common one (rank 1929)"),
        ("a photo of a dog", None, None, False, "no rare word: even 'dog' is one that the model knows well"),
        ("", "zwxqq", "zwxqq", False, "4 tokens"),
        ("!!! 🐶, .", None, None, False, "no rare word"),
    ],
)
def test_the_rare_word_is_found_and_judged(tokenizer, prompt, word, expected, is_good, text):
    verdict = judged(tokenizer, prompt, word)
    assert (verdict.word, verdict.is_good) == (expected, is_good) and text in verdict.text
