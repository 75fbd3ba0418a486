"""The rows of a held-out set: every picture once, always in the same order and cut the same way; a RowSource."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from flaxdream.data.buckets import BucketPlan
from flaxdream.data.picture_set import PictureSet, planned_part
from flaxdream.data.rows import Row

MIDDLE = (0.5, 0.5)
NO_FLIP = 1.0


class HeldOutRows:
    """Every picture once with its first caption, bucket by bucket; steps 0 to steps_per_epoch - 1 are one pass.

    The last batch (of each bucket) is filled with rows of weight 0. A row's `index` is the address for noise and
    timestep: whatever the batch size, a picture always gets the same.
    """

    captions_are_fixed, random_access = True, True

    def __init__(self, pictures: PictureSet, batch_size: int, buckets: BucketPlan | None = None):
        """`buckets` is the plan for these pictures; those that it leaves out are left out here too."""
        if batch_size < 1 or not len(pictures):
            raise ValueError(f"{pictures.name}: batch size {batch_size}, {len(pictures)} pictures; expected 1 or more")
        self.batch_size, self.pictures = batch_size, pictures
        self.buckets: BucketPlan | None = None
        groups = [np.arange(len(pictures), dtype=np.int32)]
        if buckets is not None:
            self.buckets, self.pictures = buckets.without_left_out(), planned_part(pictures, buckets)
            groups = self.buckets.groups()
        self._batches = [group[at : at + batch_size] for group in groups for at in range(0, len(group), batch_size)]

    @cached_property
    def captions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.pictures.captions(index)[0] for index in range(len(self))))

    @cached_property
    def _caption_index(self) -> dict[str, int]:
        return {caption: index for index, caption in enumerate(self.captions)}

    @property
    def batch_rows(self) -> int:
        return self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return len(self._batches)

    @property
    def fingerprint(self) -> str:
        return self.pictures.fingerprint

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
        return [self._row(step, place) for place in (range(self.batch_size) if places is None else places)]

    def _row(self, step: int, row: int) -> Row:
        batch = self._batches[step]
        index, weight = int(batch[min(row, len(batch) - 1)]), float(row < len(batch))
        caption = self.pictures.captions(index)[0]
        place = self._caption_index[caption]
        return Row(row, index, self.path(index), caption, place, weight, 0, False, MIDDLE, NO_FLIP)
