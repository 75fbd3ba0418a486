"""Aspect-ratio buckets: the sizes of training, and the plan of which picture is cut to which.

A size is (height, width) here as everywhere; tables for people write width x height, as the published ones do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.digests import text_digest

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Size = tuple[int, int]
TABLES = {
    "novelai": "sides of 1/2 to 2 resolutions, the area at most that of 3:2 with the resolution as its shorter side",
    "sdxl": "sides of 1/2 to 2 resolutions, the area that of the square or up to 10 % less",
}


def bucket_table(table: str, resolution: int, divisor: int = 64) -> tuple[Size, ...]:
    """The sizes of a table of TABLES, by aspect ratio, the narrowest first; all sides divide by `divisor`.

    "novelai" at 512 is the list that NovelAI published (19 sizes), "sdxl" at 1024 that of the SDXL paper's appendix
    (Podell et al. 2023), both exactly. `divisor` is the VAE's factor times the UNet's.
    """
    if table not in TABLES:
        raise ValueError(f"bucket table {table!r} is not one of {', '.join(TABLES)}")
    if resolution < divisor or resolution % divisor:
        raise ValueError(f"--resolution {resolution} does not divide by {divisor}, as the sides of buckets must")
    low, high = -(-resolution // 2 // divisor) * divisor, 2 * resolution
    if table == "novelai":
        return novelai_buckets(
            resolution * (resolution + resolution // 2), low, high, divisor, (resolution, resolution)
        )
    return area_buckets(resolution**2, low, high, divisor)


def novelai_buckets(area: int, low: int, high: int, divisor: int, extra: Size | None = None) -> tuple[Size, ...]:
    """For each width the tallest height whose area is not larger, and the same turned; one more size if named.

    NovelAI's own are area 768 x 512, sides 256 to 1024, 64, and 512 x 512.
    """
    tall = [(min(high, area // width // divisor * divisor), width) for width in range(low, high + 1, divisor)]
    tall = [size for size in tall if size[0] >= low]
    turned = [(width, height) for height, width in tall]
    return _by_ratio([*tall, *turned, *([extra] if extra else [])])


def area_buckets(area: int, low: int, high: int, divisor: int, less: float = 0.1) -> tuple[Size, ...]:
    """Every size whose area is that or up to the share `less` smaller, one for each aspect ratio."""
    sides = range(low, high + 1, divisor)
    return _by_ratio((h, w) for h in sides for w in sides if (1 - less) * area <= h * w <= area)


def _by_ratio(sizes: Iterable[Size]) -> tuple[Size, ...]:
    """Sorted by width to height; of two with the same ratio the larger."""
    largest: dict[float, Size] = {}
    for size in sorted(set(sizes)):
        largest[size[1] / size[0]] = size
    return tuple(largest[ratio] for ratio in sorted(largest))


def assigned(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Size]) -> Int[np.ndarray, " n"]:
    """For each picture size the number of the bucket with the nearest logarithm of the aspect ratio.

    The logarithm makes 2:3 and 3:2 equally far from the square; NovelAI took the difference of the ratios themselves.
    """
    ratios = np.log([width / height for height, width in buckets])
    if np.any(np.diff(ratios) <= 0):
        raise ValueError("buckets are to be sorted by width to height and have no aspect ratio twice")
    middles = (ratios[1:] + ratios[:-1]) / 2
    return np.searchsorted(middles, np.log(sizes[:, 1] / sizes[:, 0]))


def bucket_for(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket of one picture."""
    return buckets[int(assigned(np.array([size]), buckets)[0])]


@dataclass(frozen=True)
class BucketUse:
    """What training makes of the pictures of a bucket."""

    size: Size
    pictures: int
    cropped_mean: float  # share of the picture's area that is cut away
    cropped_most: float
    upscaled: int  # pictures with fewer pixels than the bucket needs
    largest_scale: float


@dataclass(frozen=True)
class Limits:
    """Which pictures a plan leaves out, and which buckets it does not open; nothing is left out by itself."""

    most_cropped: float | None = None
    """A picture that would lose more than this share of its area is left out."""
    most_upscaled: float | None = None
    """A picture that would be enlarged more than so many times is left out."""
    fewest_pictures: int = 1
    """Pictures of a bucket that has fewer go to the next best one. A bucket costs one compiled step, and each epoch a
    batch that may not be full."""


NO_LIMITS = Limits()


@dataclass(frozen=True)
class BucketPlan:
    """Which bucket each picture belongs to, decided before the start."""

    buckets: tuple[BucketUse, ...]  # those with pictures, by aspect ratio
    bucket_of: Int[np.ndarray, " pictures"]  # the bucket's number; -1 for what is left out
    left_out: dict[str, Int[np.ndarray, " n"]]  # indices by the first reason

    def size(self, index: int) -> Size | None:
        """Height and width to which the picture is cut; None if it is left out."""
        number = int(self.bucket_of[index])
        return self.buckets[number].size if number >= 0 else None

    @property
    def fingerprint(self) -> str:
        """Digest of the sizes and of which picture has which."""
        return text_digest([str([use.size for use in self.buckets]), self.bucket_of.tobytes().hex()])

    @property
    def kept(self) -> Int[np.ndarray, " n"]:
        """Indices of all pictures that are not left out."""
        return np.flatnonzero(self.bucket_of >= 0)

    def without_left_out(self) -> BucketPlan:
        """The plan for the `kept` pictures alone, which then have the numbers 0, 1, ..."""
        return BucketPlan(self.buckets, self.bucket_of[self.kept], {})

    def groups(self) -> list[Int[np.ndarray, " n"]]:
        """The pictures of each bucket."""
        order = np.argsort(self.bucket_of, kind="stable").astype(np.int32)
        bounds = np.searchsorted(self.bucket_of[order], np.arange(len(self.buckets) + 1))
        return [order[start:end] for start, end in pairwise(bounds)]


def plan_buckets(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Size], limits: Limits = NO_LIMITS) -> BucketPlan:
    """The plan for pictures of these sizes (height, width; 0 where a picture cannot be read)."""
    readable = sizes.min(axis=1) > 0
    if not readable.any():
        raise ValueError(f"none of {len(sizes)} pictures can be read")
    usable = np.where(readable[:, None], sizes, 1)
    opened = _opened(usable[readable], buckets, limits.fewest_pictures)
    numbers = assigned(usable, opened)
    cropped, scales = _changes(usable, np.array(opened)[numbers])
    reasons = {"that cannot be read": ~readable}
    if limits.most_cropped is not None:
        reasons[f"that would lose more than {limits.most_cropped:.0%} of their area"] = cropped > limits.most_cropped
    if limits.most_upscaled is not None:
        reasons[f"that would be enlarged more than {limits.most_upscaled:g} times"] = scales > limits.most_upscaled
    kept, left_out = np.ones(len(sizes), bool), {}
    for reason, flags in reasons.items():
        if (kept & flags).any():
            left_out[reason] = np.flatnonzero(kept & flags)
        kept &= ~flags
    uses: list[BucketUse] = []
    renumbered = np.full(len(sizes), -1, np.int16)
    for number, size in enumerate(opened):
        here = kept & (numbers == number)
        if here.any():
            renumbered[here] = len(uses)
            uses.append(_use(size, cropped[here], scales[here]))
    return BucketPlan(tuple(uses), renumbered, left_out)


def _opened(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Size], fewest: int) -> list[Size]:
    """The buckets without those that nothing falls into, and then, the emptiest first, those with too few pictures."""
    counts = np.bincount(assigned(sizes, buckets), minlength=len(buckets))
    opened = [bucket for bucket, count in zip(buckets, counts) if count]
    while len(opened) > 1:
        counts = np.bincount(assigned(sizes, opened), minlength=len(opened))
        emptiest = int(counts.argmin())
        if counts[emptiest] >= fewest:
            break
        del opened[emptiest]
    return opened


def _changes(
    sizes: Int[np.ndarray, "n 2"], targets: Int[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Share of the area that is cut away, and the scale: over 1 the picture is enlarged."""
    scales = (targets / sizes).max(axis=1)
    kept = targets.prod(axis=1) / (sizes.astype(np.float64).prod(axis=1) * scales**2)
    return np.maximum(0.0, 1 - kept), scales


def _use(size: Size, cropped: Float[np.ndarray, " n"], scales: Float[np.ndarray, " n"]) -> BucketUse:
    upscaled = int((scales > 1).sum())
    return BucketUse(size, len(scales), float(cropped.mean()), float(cropped.max()), upscaled, float(scales.max()))


def plan_text(plan: BucketPlan, batch_size: int, repeats: int = 1) -> str:
    """The plan as a table, with the batches of an epoch and how many of their rows stay empty."""
    lines = [_line("width x height", "pictures", "cropped", "at most", "upscaled", "batches", "empty rows")]
    batches = [math.ceil(use.pictures * repeats / batch_size) for use in plan.buckets]
    for use, count in zip(plan.buckets, batches):
        name, empty = f"{use.size[1]} x {use.size[0]}", count * batch_size - use.pictures * repeats
        cropped, most = f"{use.cropped_mean:.1%}", f"{use.cropped_most:.1%}"
        lines.append(_line(name, use.pictures, cropped, most, use.upscaled, count, empty))
    pictures = sum(use.pictures for use in plan.buckets)
    mean = sum(use.cropped_mean * use.pictures for use in plan.buckets) / max(pictures, 1)
    most_of_all = max((use.cropped_most for use in plan.buckets), default=0.0)
    upscaled, empty = sum(use.upscaled for use in plan.buckets), sum(batches) * batch_size - pictures * repeats
    lines.append(_line("all", pictures, f"{mean:.1%}", f"{most_of_all:.1%}", upscaled, sum(batches), empty))
    return "\n".join(lines)


def _line(*cells: object) -> str:
    return "".join(f"{cell!s:>{width}}" for cell, width in zip(cells, (14, 11, 10, 10, 10, 10, 12)))
