"""Which caption a row of a step gets: one of several, its tags shuffled and thinned, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxdream.data.draws import Purpose, uniforms, words
from flaxdream.data.tags import AS_THEY_ARE, TagRules, drawn_tags, tag_count


@dataclass(frozen=True)
class CaptionDraw:
    """Draws for (step, row): the picture alone never decides."""

    seed: int
    proportion_empty_prompts: float = 0.0
    """Chance of the empty prompt: what guidance needs to have been trained on."""
    tags: TagRules = AS_THEY_ARE

    def __post_init__(self) -> None:
        if not 0 <= self.proportion_empty_prompts <= 1:
            value = self.proportion_empty_prompts
            raise ValueError(f"--proportion_empty_prompts {value}; expected a chance of 0 to 1")

    def __call__(self, step: int, row: int, texts: Sequence[str]) -> str:
        """The caption, of a picture that has these."""
        which, chance = uniforms(self.seed, Purpose.CAPTION, (step, row), 2)
        if chance < self.proportion_empty_prompts:
            return ""
        caption = texts[int(which * len(texts))]
        if not self.tags.change_captions:
            return caption
        count = tag_count(caption, self.tags)
        return drawn_tags(caption, self.tags, words(self.seed, Purpose.TAGS, (step, row), 2 * count))
