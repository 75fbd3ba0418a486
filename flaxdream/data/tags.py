"""Captions that are lists of tags: shuffled and thinned anew for each row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TagRules:
    """What is done with the tags of a caption; the names of kohya's scripts in brackets."""

    shuffle: bool = False
    """[shuffle_caption]"""
    keep: int = 0
    """So many first tags stay first and are never dropped, for example the trigger word. [keep_tokens]"""
    dropout: float = 0.0
    """Chance of each other tag to be left out. [caption_tag_dropout_rate]"""
    separator: str = ","
    """[caption_separator]"""

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise ValueError(f"keep_tokens {self.keep}; expected 0 or more")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"tag dropout {self.dropout}; expected a chance of 0 to 1")
        if not self.separator.strip():
            raise ValueError(f"tag separator {self.separator!r}; expected a mark such as ','")

    @property
    def change_captions(self) -> bool:
        return self.shuffle or self.dropout > 0


AS_THEY_ARE = TagRules()


def drawn_tags(caption: str, rules: TagRules, words: np.ndarray) -> str:
    """The caption with its tags shuffled and thinned; `words` are two 64-bit random integers for each tag.

    Joined with the separator and a space; empty tags go. A caption without separators is one tag, dropped as a
    whole unless it is kept.
    """
    mark = rules.separator.strip()
    tags = [tag for text in caption.split(mark) if (tag := text.strip())]
    kept, others = tags[: rules.keep], tags[rules.keep :]
    order, chance = words[: len(others)], (words[len(tags) :] >> np.uint64(11)) * 2.0**-53
    places = np.argsort(order, kind="stable") if rules.shuffle else range(len(others))
    kept += [others[place] for place in places if chance[place] >= rules.dropout]
    return f"{mark} ".join(kept)


def tag_count(caption: str, rules: TagRules) -> int:
    """The most tags that the caption can hold."""
    return caption.count(rules.separator.strip()) + 1
