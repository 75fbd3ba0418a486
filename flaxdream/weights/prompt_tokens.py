"""How prompts split into tokens: what to show people, how long captions are, and what of them is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from flaxdream.arrays import Int

WORD_END = "</w>"
CHUNK = 4096  # captions that are tokenized at a time


class Piece(NamedTuple):
    """A token as it stands in the prompt."""

    text: str
    id: int


def words(tokenizer: Any, prompt: str) -> list[tuple[Piece, ...]]:
    """The prompt's words and marks, each with its tokens; start and end are not among them."""
    rows = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, spans = rows["input_ids"], rows["offset_mapping"]
    found: list[tuple[Piece, ...]] = []
    word: tuple[Piece, ...] = ()
    for token, number, (start, end) in zip(tokenizer.convert_ids_to_tokens(ids), ids, spans):
        word += (Piece(prompt[start:end], number),)
        if token.endswith(WORD_END):
            found.append(word)
            word = ()
    return [*found, word] if word else found


def lengths(tokenizer: Any, captions: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Tokens of each caption, start and end included, before anything is cut."""
    return np.fromiter((len(ids) for ids in _ids(tokenizer, captions)), np.int32, len(captions))


def cut_part(tokenizer: Any, caption: str) -> str:
    """What of the caption lies behind the tokenizer's length, as it stands there; "" if all of it fits."""
    spans = tokenizer(caption, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    fitting = tokenizer.model_max_length - 2
    return caption[spans[fitting][0] :] if len(spans) > fitting else ""


def _ids(tokenizer: Any, captions: Sequence[str]) -> Iterator[list[int]]:
    for start in range(0, len(captions), CHUNK):
        yield from tokenizer(list(captions[start : start + CHUNK]), truncation=False, verbose=False)["input_ids"]
