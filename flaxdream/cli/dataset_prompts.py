"""The captions and prompts of a checked set, as tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxdream.config.dataset import DatasetCheckConfig
from flaxdream.data.findings import Case, Finding, cases_of, counted, name_of
from flaxdream.data.picture_facts import spread
from flaxdream.data.picture_set import PictureSet
from flaxdream.weights.prompt_tokens import cut_part, lengths, words
from flaxdream.weights.rare_words import judged, proposals
from flaxdream.weights.tokenizer import clip_tokenizer, read_tokenizer

SAMPLES = 3  # captions that are shown split
PROPOSALS = 12


@dataclass(frozen=True)
class Texts:
    """All captions that are not empty, each with its picture and its tokens."""

    captions: tuple[str, ...]
    pictures: np.ndarray
    lengths: np.ndarray
    limit: int

    @property
    def too_long(self) -> list[int]:
        """Places of those that are cut."""
        return np.flatnonzero(self.lengths > self.limit).tolist()

    def facts(self) -> dict[str, Any]:
        """Counts, and the spread of lengths in tokens, start and end included."""
        return {
            "count": len(self.captions),
            "different": len(set(self.captions)),
            "tokens": spread(self.lengths),
            "limit": self.limit,
            "too_long": len(self.too_long),
        }


def tokenizer_of(config: DatasetCheckConfig) -> Any:
    """The model's tokenizer, or CLIP's. ValueError if there is none."""
    source = config.pretrained_model_name_or_path
    if source is None:
        return clip_tokenizer()
    folder = Path(source).expanduser()
    if not folder.is_dir():
        from flaxdream.weights.hub import component_folder  # imports jax

        return read_tokenizer(component_folder(source, "tokenizer", token=config.hub_token, cache_dir=config.cache_dir))
    return read_tokenizer(folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder)


def read_texts(pictures: PictureSet, tokenizer: Any) -> Texts:
    """Reads and measures all captions."""
    found = [(text, index) for index in range(len(pictures)) for text in pictures.captions(index) if text]
    captions = tuple(text for text, _ in found)
    owners = np.array([index for _, index in found], np.int64)
    different = list(dict.fromkeys(captions))
    counts = dict(zip(different, lengths(tokenizer, different).tolist()))
    measured = np.array([counts[text] for text in captions], np.int32)
    return Texts(captions, owners, measured, tokenizer.model_max_length)


def prompt_findings(
    config: DatasetCheckConfig, tokenizer: Any, pictures: PictureSet, texts: Texts
) -> Iterator[Finding]:
    """Captions that are cut, and rare words that are none."""
    if config.instance_prompt is None:
        yield from _long_captions(tokenizer, pictures, texts)
    elif texts.too_long:
        lost = cut_part(tokenizer, texts.captions[0])
        title = f"the prompt is longer than {texts.limit} tokens"
        yield Finding("long_captions", "warning", title, f"This part of it has no effect: {lost!r}")
    if config.instance_prompt is None and config.token is None:
        return
    verdict = judged(tokenizer, config.instance_prompt or "", config.token)
    if not verdict.is_good:
        advice = f"Take a rare word that is one token, such as {', '.join(proposals(tokenizer, PROPOSALS))}."
        yield Finding("rare_word", "warning", verdict.text, advice)
    if config.token is not None:
        yield from _captions_without(config.token, pictures, texts)


def _long_captions(tokenizer: Any, pictures: PictureSet, texts: Texts) -> Iterator[Finding]:
    if too_long := texts.too_long:
        title = f"{counted(len(too_long), 'caption')} longer than {texts.limit} tokens"
        cases = tuple(
            Case((name_of(pictures, index),), f"cut off: {cut_part(tokenizer, texts.captions[place])!r}", (index,))
            for place, index in zip(too_long, texts.pictures[too_long].tolist())
        )
        yield Finding(
            "long_captions", "warning", title, "What is cut off has no effect: write what matters first.", cases
        )


def _captions_without(token: str, pictures: PictureSet, texts: Texts) -> Iterator[Finding]:
    word = re.compile(rf"(?<!\w){re.escape(token)}(?!\w)", re.IGNORECASE)
    without = list(dict.fromkeys(index for text, index in zip(texts.captions, texts.pictures) if not word.search(text)))
    if without:
        yield Finding(
            "token_missing",
            "warning",
            f"{counted(len(without), 'picture')} with a caption that lacks {token!r}",
            "The word learns nothing there.",
            cases_of(pictures, without),
        )


def prompt_facts(config: DatasetCheckConfig, tokenizer: Any, texts: Texts) -> dict[str, Any]:
    """How prompts split, the verdict on the rare word, and words that could take its place."""
    samples = [] if config.instance_prompt is not None else list(dict.fromkeys(texts.captions[:1000]))[:SAMPLES]
    prompts = [*texts.captions[:1]] if config.instance_prompt is not None else []
    named = config.instance_prompt is not None or config.token is not None
    verdict = judged(tokenizer, config.instance_prompt or "", config.token) if named else None
    return {
        "tokenizer": config.pretrained_model_name_or_path or "CLIP's",
        "split": [
            {"prompt": prompt, "words": [[list(piece) for piece in word] for word in words(tokenizer, prompt)]}
            for prompt in dict.fromkeys([*prompts, *config.prompt, *samples])
        ],
        "rare_word": None
        if verdict is None
        else {"word": verdict.word, "is_good": verdict.is_good, "text": verdict.text},
        "proposals": proposals(tokenizer, PROPOSALS),
    }
