"""The order of a captioned set: which picture with which of its captions is in which row of which step.

`orders` says which picture, with buckets or without. Caption, tags and crop are drawn for the row and the step, not
for the picture. All is a pure function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from flaxdream.data.buckets import BucketPlan
from flaxdream.data.caption_draw import CaptionDraw
from flaxdream.data.digests import text_digest
from flaxdream.data.draws import Purpose, uniforms
from flaxdream.data.orders import BucketOrder, EndlessOrder, Order
from flaxdream.data.picture_set import PictureSet, drawn_samples, planned_part
from flaxdream.data.rows import Row
from flaxdream.data.tags import AS_THEY_ARE, TagRules

TABLE_OF_AT_MOST = 20_000  # pictures whose captions are all kept, tokenized and perhaps encoded before the start


class CaptionedRows:
    """Which picture with which caption is in which row of which step; a RowSource.

    `captions` is empty and `caption_index` is -1 where captions are not fixed: where tags are shuffled or dropped, and
    in sets of more than `table_of_at_most` pictures, whose captions would fill the memory. `Row.caption` always has
    the text.
    """

    random_access = True

    def __init__(
        self,
        pictures: PictureSet,
        batch_size: int,
        seed: int,
        *,
        proportion_empty_prompts: float = 0.0,
        tags: TagRules = AS_THEY_ARE,
        repeats: int = 1,
        max_train_samples: int | None = None,
        buckets: BucketPlan | None = None,
        table_of_at_most: int = TABLE_OF_AT_MOST,
    ):
        """`batch_size` is that of the global batch, of all devices, hosts and accumulated parts together.

        `buckets` is the plan for these pictures; those that it leaves out have no index here. Draw samples first and
        plan for them: `drawn_samples`.
        """
        if batch_size < 1 or repeats < 1:
            raise ValueError(f"batch size {batch_size}, repeats {repeats}; expected 1 or more")
        if not len(pictures):
            raise ValueError(f"{pictures.name}: there is no picture with a caption")
        self.batch_size, self.seed, self.repeats, self.buckets = batch_size, seed, repeats, buckets
        self.pictures = drawn_samples(pictures, max_train_samples, seed)
        if buckets is not None:
            self.buckets, self.pictures = buckets.without_left_out(), planned_part(self.pictures, buckets)
        self.captions_are_fixed = not tags.change_captions and len(self.pictures) <= table_of_at_most
        self._caption = CaptionDraw(seed, proportion_empty_prompts, tags)
        self._order: Order = EndlessOrder(len(self.pictures), batch_size, seed, repeats)
        if self.buckets is not None:
            self._order = BucketOrder(self.buckets.groups(), batch_size, seed, repeats)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        if not self.captions_are_fixed:
            return ()
        texts = [text for index in range(len(self)) for text in self.pictures.captions(index)]
        return tuple(dict.fromkeys([""] * (self._caption.proportion_empty_prompts > 0) + texts))

    @cached_property
    def _caption_index(self) -> dict[str, int]:
        return {caption: index for index, caption in enumerate(self.captions)}

    @property
    def batch_rows(self) -> int:
        return self.batch_size

    @property
    def epoch_length(self) -> int:
        """Rows of an epoch that show a picture."""
        return self._order.epoch_length

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    @property
    def fingerprint(self) -> str:
        """Digest of the pictures and captions, how often each comes, and the buckets: another one, another run."""
        buckets = [] if self.buckets is None else [self.buckets.fingerprint]
        return text_digest([self.pictures.fingerprint, str(self.repeats), *buckets])

    @property
    def notes(self) -> Sequence[str]:
        """What was left out of the set."""
        return self.pictures.notes

    def __len__(self) -> int:
        return len(self.pictures)

    def path(self, index: int) -> Path:
        return self.pictures.path(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.pictures.size(index)

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        return self.pictures.stored(index)

    def resolution(self, index: int) -> tuple[int, int] | None:
        return None if self.buckets is None else self.buckets.size(index)

    def rows(self, step: int, places: Sequence[int] | None = None) -> list[Row]:
        """The global batch of a step, or the rows at these places of it alone."""
        wanted = range(self.batch_size) if places is None else places
        indices, weights = self._order.at(step, wanted)
        drawn = zip(wanted, indices.tolist(), weights.tolist(), strict=True)
        return [self._row(step, row, index, weight) for row, index, weight in drawn]

    def _row(self, step: int, row: int, index: int, weight: float) -> Row:
        caption = self._caption(step, row, self.pictures.captions(index))
        place = self._caption_index[caption] if self.captions_are_fixed else -1
        top, left, flip = uniforms(self.seed, Purpose.CROP_AND_FLIP, (step, row), 3).tolist()
        return Row(row, index, self.path(index), caption, place, weight, 0, False, (top, left), flip)
