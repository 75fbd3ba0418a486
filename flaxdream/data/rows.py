"""What a loader needs of any data set: which picture is in which row of which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Row:
    """One row of one step's global batch."""

    row: int  # place in the global batch, 0 to batch_rows - 1: part of the address of its random numbers
    index: int  # of the picture in its source
    path: Path  # the picture's file, or its key where the source has no files
    caption: str
    caption_index: int  # in the source's `captions`; -1 where captions are not fixed
    weight: float  # of the row's loss
    concept: int
    is_class: bool
    crop_draw: tuple[float, float]  # 0..1, for top and left
    flip_draw: float  # 0..1; less than 0.5 flips where flips are asked for


class RowSource(Protocol):
    """A data set whose order is a pure function of the seed and the step, or a stream that only goes forward."""

    @property
    def random_access(self) -> bool:
        """Whether any step and any picture can be asked for at any time, and pictures come again by their index."""

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions that rows can have; empty where they are not fixed."""

    @property
    def captions_are_fixed(self) -> bool:
        """Whether rows take their captions from `captions`; else only `Row.caption` has it."""

    @property
    def batch_rows(self) -> int:
        """Rows of a global batch, the same at every step."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each picture comes once, or as often as the source repeats it. ValueError if unknown."""

    def __len__(self) -> int:
        """How many pictures there are; their indices are 0 to len - 1. ValueError if unknown."""

    def rows(self, step: int, places: Sequence[int] | None = None) -> Sequence[Row]:
        """The global batch of a step, in order of `row`; or the rows at these places of it alone."""

    def path(self, index: int) -> Path:
        """The picture's file, or its key."""

    def resolution(self, index: int) -> tuple[int, int] | None:
        """Height and width to which the picture is cut; the same for all rows of a step. None: the loader's own."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, without decoding where possible; else BrokenPicture."""

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        """The picture's file, or its key and the bytes of the file; else BrokenPicture."""
