"""CLIP's tokenizer, from the vocabulary that ships inside."""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flaxdream.weights.tokenizer import VOCABULARY, read_tokenizer, tokenize, truncated, write_clip_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_clip_tokenizer(folder)
    return read_tokenizer(folder)


def test_the_vocabulary_is_the_published_one():
    digest = hashlib.sha256(VOCABULARY.read_bytes()).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # Ids of OpenAI's CLIP.
        ("a photo of sks dog", [320, 1125, 539, 48136, 1929]),
        ("a diagram", [320, 22697]),
        ("a dog", [320, 1929]),
        ("a cat", [320, 2368]),
        ("hello world!", [3306, 1002, 256]),
        ("", []),
    ],
)
def test_ids_are_those_of_openai_clip(tokenizer, text, ids):
    row = tokenize(tokenizer, [text])[0]
    assert row.tolist() == [49406, *ids, *[49407] * (76 - len(ids))]
    assert row.dtype == np.int32


def test_case_spaces_accents_and_contractions_split_as_clip_splits_them(tokenizer):
    a, b = tokenize(tokenizer, ["A  Photo\n of SKS dog's café", "a photo of sks dog 's café"])
    assert a.tolist() == b.tolist()
    assert tokenizer.decode(a[1:8]).startswith("a photo of sks dog")


def test_sd2_pads_with_the_exclamation_mark(tmp_path):
    write_clip_tokenizer(tmp_path, pad_token="!")
    row = tokenize(read_tokenizer(tmp_path), ["a dog"])[0]
    assert row[:5].tolist() == [49406, 320, 1929, 49407, 0] and set(row[4:].tolist()) == {0}


def test_new_and_old_file_layouts_give_the_same_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    texts = ["a photo of sks dog, 4k!!! (masterpiece:1.2)", "größer ß 你好 🦊", "x" * 40]
    assert np.array_equal(tokenize(read_tokenizer(tmp_path), texts), tokenize(tokenizer, texts))


def test_what_does_not_fit_is_named_and_cut_off(tokenizer, caplog):
    prompt = " ".join(["dog"] * 75 + ["unseen", "words"])
    with caplog.at_level(logging.WARNING):
        row = tokenize(tokenizer, [prompt, "a dog"])[0]
    assert row.tolist() == [49406, *[1929] * 75, 49407]
    assert len(caplog.records) == 1 and "'unseen words'" in caplog.text
    assert truncated(tokenizer, [prompt])[0][1].strip() == "unseen words"


def test_a_prompt_that_just_fits_is_not_named(tokenizer, caplog):
    assert tokenize(tokenizer, [" ".join(["dog"] * 75)])[0][-1] == 49407
    assert not caplog.records


def test_a_folder_without_tokenizer_files_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no tokenizer: expected vocab\.json and merges\.txt"):
        read_tokenizer(tmp_path)


def test_few_characters_of_many_tokens_are_noticed(tokenizer, caplog):
    tokenize(tokenizer, ["\U00012000" * 30])  # four bytes each, a token a byte
    assert len(caplog.records) == 1


def test_threads_use_a_tokenizer_one_after_another():
    """It remembers the length that it was last asked for."""

    class Tokenizer:
        model_max_length, length = 77, 0

        def __call__(self, prompts, *, truncation, max_length=100, **_):
            self.length = max_length
            time.sleep(0.01)
            return {"input_ids": [[0] * self.length] if truncation else [0] * self.length}

        def decode(self, ids):
            return ""

    shared = Tokenizer()
    with ThreadPoolExecutor(4) as pool:
        short = [pool.submit(tokenize, shared, ["a"]) for _ in range(8)]
        long = [pool.submit(truncated, shared, ["a" * 100]) for _ in range(8)]
        assert {future.result().shape for future in short} == {(1, 77)}
        assert all(len(future.result()) == 1 for future in long)
