"""Captions that are longer than the text encoder's 77 places, named by the pictures that have them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from flaxdream.weights.tokenizer import truncated

NAMED = 5  # captions, at most
CHECKED = 20_000  # captions that are looked at, at most: a second or two


def long_captions(tokenizer: Any, captioned: Iterable[tuple[Path, str]]) -> list[str]:
    """A line for each of the first captions that do not fit, with a picture and the part that is lost."""
    pictures: dict[str, list[Path]] = {}
    for path, caption in islice(captioned, CHECKED):
        pictures.setdefault(caption, []).append(path)
    cut = truncated(tokenizer, list(pictures))
    lines = []
    for caption, lost in cut[:NAMED]:
        first, *others = pictures[caption]
        also = f" and {len(others)} more" if others else ""
        lines.append(
            f"{first}{also}: the caption is longer than {tokenizer.model_max_length} tokens; this part of it has no "
            f"effect: {lost!r}"
        )
    if len(cut) > NAMED:
        lines.append(f"and {len(cut) - NAMED} more captions are longer than {tokenizer.model_max_length} tokens")
    return lines
