"""Captioned pictures behind one face, wherever they come from, and parts of such a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flaxdream.data.buckets import BucketPlan
from flaxdream.data.digests import text_digest
from flaxdream.data.draws import Purpose, permutation

if TYPE_CHECKING:
    from jaxtyping import UInt8


class PictureSet(Protocol):
    """Pictures by index, 0 to len - 1, each with one caption or more; nothing is decoded before it is asked for."""

    @property
    def name(self) -> str:
        """What messages call the set: its folder, or its name on the Hub."""

    @property
    def fingerprint(self) -> str:
        """Digest of the pictures' names and of all captions, or of what stands for them: another one, another set."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines that the user should see: what was left out, how many, why, and the first names."""

    def __len__(self) -> int:
        """How many pictures there are."""

    def captions(self, index: int) -> tuple[str, ...]:
        """The picture's captions, at least one."""

    def path(self, index: int) -> Path:
        """The picture's file, or the key that stands for it in messages."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, from the header where possible; else BrokenPicture."""

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        """The picture's file, or its key and the bytes of the file; else BrokenPicture.

        What `read_picture` takes; nothing is decoded.
        """

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The decoded picture; else BrokenPicture."""


class Part:
    """Some pictures of a set, in the given order: a PictureSet too."""

    def __init__(self, whole: PictureSet, indices: Sequence[int] | np.ndarray):
        self.whole, self.indices = whole, np.asarray(indices, np.int64)

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def fingerprint(self) -> str:
        return text_digest([self.whole.fingerprint, self.indices.tobytes().hex()])

    @property
    def notes(self) -> Sequence[str]:
        return self.whole.notes

    def __len__(self) -> int:
        return len(self.indices)

    def captions(self, index: int) -> tuple[str, ...]:
        return self.whole.captions(int(self.indices[index]))

    def path(self, index: int) -> Path:
        return self.whole.path(int(self.indices[index]))

    def size(self, index: int) -> tuple[int, int]:
        return self.whole.size(int(self.indices[index]))

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        return self.whole.stored(int(self.indices[index]))

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return self.whole.read(int(self.indices[index]))


def drawn_samples(pictures: PictureSet, count: int | None, seed: int) -> PictureSet:
    """`--max_train_samples`: `count` pictures drawn by the seed, in the set's order; all if `count` is None or more.

    diffusers shuffles by the seed and takes the first `count` too, with other random numbers.
    """
    if count is not None and count < 1:
        raise ValueError(f"--max_train_samples {count}; expected 1 or more")
    if count is None or count >= len(pictures):
        return pictures
    return Part(pictures, np.sort(permutation(seed, Purpose.SAMPLES, (0, 0), len(pictures))[:count]))


def split_off(pictures: PictureSet, count: int, seed: int) -> tuple[PictureSet, PictureSet]:
    """The set without `count` pictures drawn by the seed, and those: a validation set where the data has none."""
    there = len(pictures)
    if not 0 < count < there:
        raise ValueError(f"{pictures.name}: {count} of {there} pictures cannot be held out; expected 1 to {there - 1}")
    order = permutation(seed, Purpose.HELD_OUT, (0, 0), there)
    return Part(pictures, np.sort(order[count:])), Part(pictures, np.sort(order[:count]))


def planned_part(pictures: PictureSet, plan: BucketPlan) -> PictureSet:
    """The pictures that the plan of buckets does not leave out."""
    planned = len(plan.bucket_of)
    if planned != len(pictures):
        raise ValueError(f"{pictures.name}: the buckets are planned for {planned} pictures; there are {len(pictures)}")
    return Part(pictures, plan.kept) if plan.left_out else pictures
