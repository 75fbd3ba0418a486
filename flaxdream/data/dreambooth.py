"""DreamBooth's order: which instance and class pictures are in which step.

An epoch is a shuffle of slots. If any concept names its repeats, a concept has pictures x repeats slots (1 repeat
if it names none). If none does, all have equal shares: as many slots as the largest concept has pictures. The
command's `repeats` multiplies them all. A concept fills its slots from its deck, which is dealt to the end and
shuffled anew, without end: an epoch shows each picture exactly `repeats` times, or, where a small concept fills a
larger share, equally often to within one. Class pictures have decks of their own, dealt alongside.

Batches are cut from the endless run of epochs: the tail of an epoch shares a batch with the head of the next, and
no batch is smaller. All is a pure function of (seed, step).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.concept_pictures import Picture
from flaxdream.data.digests import text_digest
from flaxdream.data.draws import Purpose, permutation, uniforms
from flaxdream.data.images import picture_size
from flaxdream.data.rows import Row

if TYPE_CHECKING:
    from jaxtyping import Int


class DreamBoothRows:
    """Which picture is in which row of which step; a RowSource.

    A batch has `batch_size` instance rows. With prior preservation each is followed by a class row of its concept,
    and the rows weigh 2 and 2 * prior_loss_weight, so that the mean over the batch is the paper's
    mean(instance) + prior_loss_weight * mean(class) however the rows are spread over devices.
    """

    captions_are_fixed, random_access = True, True

    def __init__(
        self,
        pictures: Sequence[Picture],
        batch_size: int,
        seed: int,
        *,
        prior_loss_weight: float | None = None,
        repeats: int = 1,
        concept_repeats: Sequence[int | None] = (),
    ):
        """No prior preservation if `prior_loss_weight` is None; `concept_repeats` are the concepts' own, in order."""
        self.pictures, self.batch_size, self.seed = tuple(pictures), batch_size, seed
        self.prior_loss_weight = prior_loss_weight
        self.captions = tuple(dict.fromkeys(picture.caption for picture in self.pictures))
        self._caption_index = {caption: index for index, caption in enumerate(self.captions)}
        self._instances = self._decks(is_class=False)
        self._classes = self._decks(is_class=True)
        _check(self, repeats, concept_repeats)
        self.shares = _shares({c: len(deck) for c, deck in self._instances.items()}, repeats, concept_repeats)
        self.epoch_length = sum(self.shares.values())
        self._epoch = lru_cache(maxsize=4)(self._shuffled_epoch)

    @property
    def has_class_rows(self) -> bool:
        return self.prior_loss_weight is not None

    @property
    def batch_rows(self) -> int:
        """Rows of a global batch, class rows included."""
        return self.batch_size * (2 if self.has_class_rows else 1)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that `--num_train_epochs 1` stands for, as diffusers counts them.

        Its data set has as many examples as there are instance slots or class pictures, whichever is more (with 5
        instance and 100 class pictures an "epoch" is 100 examples), and its last batch may be smaller. Ours never is:
        after n times these steps the order is up to one batch a time further.
        """
        classes = sum(map(len, self._classes.values())) if self.has_class_rows else 0
        return math.ceil(max(self.epoch_length, classes) / self.batch_size)

    @property
    def fingerprint(self) -> str:
        """Digest of the pictures' names and sizes in bytes, captions and parts: another one, another run."""
        return text_digest(
            text
            for picture in self.pictures
            for text in (
                f"{picture.path.name} {picture.path.stat().st_size} {picture.concept} {picture.is_class}",
                picture.caption,
            )
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def path(self, index: int) -> Path:
        return self.pictures[index].path

    def caption_index(self, index: int) -> int:
        return self._caption_index[self.pictures[index].caption]

    def resolution(self, index: int) -> tuple[int, int] | None:
        return None

    def size(self, index: int) -> tuple[int, int]:
        return picture_size(self.path(index))

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        return self.path(index), None

    def rows(self, step: int, places: Sequence[int] | None = None) -> list[Row]:
        """The global batch of a step: instance, class, instance, class, ... or instances alone."""
        rows: list[Row] = []
        first = step * self.batch_size
        for position in range(first, first + self.batch_size):
            instance, partner = self._epoch(position // self.epoch_length)[position % self.epoch_length]
            rows.append(self._row(step, len(rows), int(instance)))
            if self.has_class_rows:
                rows.append(self._row(step, len(rows), int(partner)))
        return rows if places is None else [rows[place] for place in places]

    def _row(self, step: int, row: int, index: int) -> Row:
        picture = self.pictures[index]
        top, left, flip = uniforms(self.seed, Purpose.CROP_AND_FLIP, (step, row), 3).tolist()
        weight = 1.0
        if self.prior_loss_weight is not None:
            weight = 2.0 * self.prior_loss_weight if picture.is_class else 2.0
        return Row(
            row, index, picture.path, picture.caption, self.caption_index(index), weight,
            picture.concept, picture.is_class, (top, left), flip,
        )  # fmt: skip

    def _decks(self, is_class: bool) -> dict[int, Int[np.ndarray, " n"]]:
        """Indices of each concept's pictures of that kind."""
        decks: dict[int, list[int]] = {}
        for index, picture in enumerate(self.pictures):
            if picture.is_class == is_class:
                decks.setdefault(picture.concept, []).append(index)
        return {concept: np.array(indices) for concept, indices in decks.items()}

    def _shuffled_epoch(self, epoch: int) -> Int[np.ndarray, "slots 2"]:
        """Instance and class index of each slot of an epoch; the class index is -1 without prior preservation."""
        slots = []
        for concept, share in self.shares.items():
            pair = np.full((share, 2), -1)
            pair[:, 0] = self._dealt(Purpose.INSTANCE_DECK, concept, self._instances[concept], epoch * share, share)
            if self.has_class_rows:
                pair[:, 1] = self._dealt(Purpose.CLASS_DECK, concept, self._classes[concept], epoch * share, share)
            slots.append(pair)
        return np.concatenate(slots)[permutation(self.seed, Purpose.EPOCH, (0, epoch), self.epoch_length)]

    def _dealt(
        self, purpose: Purpose, concept: int, deck: Int[np.ndarray, " n"], start: int, count: int
    ) -> Int[np.ndarray, " count"]:
        """`count` cards from place `start` of the deck's endless run of shuffles."""
        first, last = start // len(deck), (start + count - 1) // len(deck)
        shuffles = [
            deck[permutation(self.seed, purpose, (concept, shuffle), len(deck))] for shuffle in range(first, last + 1)
        ]
        return np.concatenate(shuffles)[start - first * len(deck) :][:count]


def _shares(sizes: Mapping[int, int], repeats: int, concept_repeats: Sequence[int | None]) -> dict[int, int]:
    """Slots of each concept in an epoch; the rule is at the head of this file."""
    named = {c: concept_repeats[c] if c < len(concept_repeats) else None for c in sizes}
    if any(value is not None for value in named.values()):
        return {c: repeats * size * (named[c] or 1) for c, size in sizes.items()}
    return dict.fromkeys(sizes, repeats * max(sizes.values()))


def _check(rows: DreamBoothRows, repeats: int, concept_repeats: Sequence[int | None]) -> None:
    problems = []
    if rows.batch_size < 1:
        problems.append(f"batch size {rows.batch_size}; expected 1 or more")
    if repeats < 1 or any(value is not None and value < 1 for value in concept_repeats):
        problems.append(f"repeats {repeats}, of concepts {list(concept_repeats)}; expected 1 or more")
    if not rows._instances:
        problems.append("there is no instance picture")
    if rows.has_class_rows and (without := sorted(set(rows._instances) - set(rows._classes))):
        problems.append(f"prior preservation needs class pictures, and concepts {without} have none")
    if problems:
        raise ValueError("; ".join(problems))
