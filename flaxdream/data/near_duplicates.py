"""Pictures that look alike: difference hashes, and all pairs of hashes that differ in few bits."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Float, Int, Shaped, UInt8, UInt64

THUMB = 16  # pixels
MOST_BITS = 12  # of 128 in which the hashes of two copies differ
MOST_SHARE = 1 / 3  # of all bits that are set in the two: flat pictures have few, and differ in few anyway
BANDS = 14  # with 12 bits that differ, at least two of 14 bands are the same
MOST_UNLIKE = 0.05  # 1 - correlation of the thumbnails
COARSE, COARSE_UNLIKE = 8, 0.1  # the same for grey thumbnails of half the size, which are looked at first
FLAT = 2.0  # standard deviation, in levels, of a picture that shows nothing
CHUNK = 4096  # pairs whose thumbnails are compared at a time
LONGEST_WALK = 64  # in a bucket each hash meets so many others, the nearest in brightness
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def thumbnail(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "16 16 3"]:
    """The picture as 16 x 16 means, whatever its shape."""
    return np.rint(area_means(picture, (THUMB, THUMB))).astype(np.uint8)


def difference_hash(picture: UInt8[np.ndarray, "H W 3"]) -> UInt64[np.ndarray, " two"]:
    """128 bits: whether each of 9 x 8 grey cells is darker than its right one, and each of 8 x 9 than the lower one.

    Copies in another size, format, brightness or contrast differ in 0 to 8 bits, those that lost 2 % at each edge in
    about 10. Differences of under half a level count as none, so that flat areas of all copies are the same.
    """
    grey = (picture @ GREY)[..., None]
    across, down = area_means(grey, (8, 9))[..., 0], area_means(grey, (9, 8))[..., 0]
    bits = [(across[:, 1:] > across[:, :-1] + 0.5).ravel(), (down[1:] > down[:-1] + 0.5).ravel()]
    return np.packbits(np.concatenate(bits)).view(np.uint64)


def area_means(picture: Shaped[np.ndarray, "H W c"], size: tuple[int, int]) -> Float[np.ndarray, "h w c"]:
    """The mean of each of h x w equal cells; pixels that lie in two cells count in both by their share."""
    rows, columns = (_shares(n, cells) for n, cells in zip(picture.shape[:2], size))
    halfway = np.tensordot(rows, picture.astype(np.float32), (1, 0))  # h W c
    return np.moveaxis(np.tensordot(columns, halfway, (1, 1)), 0, 1)


def _shares(pixels: int, cells: int) -> Float[np.ndarray, "cells pixels"]:
    edges, starts = np.linspace(0, pixels, cells + 1)[:, None], np.arange(pixels)[None]
    shares = np.clip(np.minimum(starts + 1, edges[1:]) - np.maximum(starts, edges[:-1]), 0, None)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def alike(hashes: UInt64[np.ndarray, "n 2"], thumbs: UInt8[np.ndarray, "n 16 16 3"]) -> list[Int[np.ndarray, " k"]]:
    """Groups of two pictures or more, in order: each looks like another of its group.

    Hashes that differ in few bits make a candidate, thumbnails that correlate decide. Pictures of one colour form no
    group. 100,000 pictures take seconds: only hashes in a common bucket are compared.
    """
    order = np.argsort(thumbs.mean(axis=(1, 2, 3)), kind="stable")
    together = _Together(thumbs)
    for one, other in close_pairs(hashes[order]):
        together.put(order[one], order[other])
    return together.groups()


def close_pairs(hashes: UInt64[np.ndarray, "n 2"]) -> Iterator[tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]]:
    """Numbers of the pairs of hashes that differ in at most MOST_BITS bits and MOST_SHARE, some of them several times.

    A bucket holds the hashes that agree in two bands of bits; pairs that differ in so few bits share at least one.
    The bits of a band come from all over the picture: an empty sky does not put half of the set into one bucket. In a
    bucket of more than LONGEST_WALK each hash meets only those that stand near it in `hashes`.
    """
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    bands = np.array_split(np.random.default_rng(0).permutation(bits.shape[1]), BANDS)
    keys = [bits[:, band].astype(np.int64) @ (1 << np.arange(len(band))) for band in bands]
    for one, other in combinations(keys, 2):
        bucket = one << 16 | other
        order = np.argsort(bucket, kind="stable")
        yield from _close_neighbours(hashes, order, bucket[order])


def _close_neighbours(
    hashes: UInt64[np.ndarray, "n 2"], order: Int[np.ndarray, " n"], bucket: Int[np.ndarray, " n"]
) -> Iterator[tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]]:
    """The close pairs in buckets, where `order` sorts the hashes by bucket."""
    places = np.arange(len(order))
    for step in range(1, LONGEST_WALK + 1):
        places = places[: np.searchsorted(places, len(order) - step)]
        places = places[bucket[places] == bucket[places + step]]
        if not len(places):
            return
        one, other = order[places], order[places + step]
        near = _near(hashes[one], hashes[other])
        if near.any():
            yield one[near], other[near]


def _near(one: UInt64[np.ndarray, "p 2"], other: UInt64[np.ndarray, "p 2"]) -> Bool[np.ndarray, " p"]:
    differing, common = (np.bitwise_count(bits).sum(axis=1, dtype=np.int32) for bits in (one ^ other, one & other))
    return (differing <= MOST_BITS) & (differing <= MOST_SHARE * (differing + 2 * common))


class _Together:
    """Which pictures are in one group: each has the number of the group's first."""

    def __init__(self, thumbs: UInt8[np.ndarray, "n 16 16 3"]):
        self._thumbs, self._group = thumbs, np.arange(len(thumbs))
        halves = thumbs.reshape(len(thumbs), COARSE, THUMB // COARSE, COARSE, THUMB // COARSE, 3)
        self._coarse = _centred(halves.mean(axis=(2, 4), dtype=np.float32) @ GREY[:, None])[0]

    def put(self, one: Int[np.ndarray, " p"], other: Int[np.ndarray, " p"]) -> None:
        """Puts the pairs together whose thumbnails are alike; those that are together already are not looked at."""
        for start in range(0, len(one), CHUNK):
            a, b = one[start : start + CHUNK], other[start : start + CHUNK]
            a, b = _where(self._group[a] != self._group[b], a, b)
            a, b = _where((self._coarse[a] * self._coarse[b]).sum(axis=(1, 2, 3)) >= 1 - COARSE_UNLIKE, a, b)
            self._join(*_where(_look_alike(self._thumbs[a], self._thumbs[b]), a, b))

    def groups(self) -> list[Int[np.ndarray, " k"]]:
        """Those of two or more, by their first pictures."""
        order = np.argsort(self._group, kind="stable")
        starts = np.flatnonzero(np.diff(self._group[order], prepend=-1))
        return [group for group in np.split(order, starts[1:]) if len(group) > 1]

    def _join(self, a: Int[np.ndarray, " p"], b: Int[np.ndarray, " p"]) -> None:
        while len(a):
            low, high = np.sort([self._group[a], self._group[b]], axis=0)
            lowest = np.arange(len(self._group))
            np.minimum.at(lowest, high, low)
            self._group = lowest[self._group]
            a, b = _where(self._group[a] != self._group[b], a, b)


def _where(
    which: Bool[np.ndarray, " p"], one: Int[np.ndarray, " p"], other: Int[np.ndarray, " p"]
) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " q"]]:
    return one[which], other[which]


def _look_alike(one: UInt8[np.ndarray, "p 16 16 3"], other: UInt8[np.ndarray, "p 16 16 3"]) -> Bool[np.ndarray, " p"]:
    (a, a_deviation), (b, b_deviation) = (_centred(thumbs.astype(np.float32)) for thumbs in (one, other))
    correlated = (a * b).sum(axis=(1, 2, 3)) >= 1 - MOST_UNLIKE
    return correlated & (a_deviation > FLAT) & (b_deviation > FLAT)


def _centred(
    thumbs: Float[np.ndarray, "p t t c"],
) -> tuple[Float[np.ndarray, "p t t c"], Float[np.ndarray, " p"]]:
    """Without the mean colour, so that brightness and a tint do not count, at length 1; and the deviation in levels."""
    values = thumbs - thumbs.mean(axis=(1, 2), keepdims=True)
    lengths = np.sqrt((values**2).sum(axis=(1, 2, 3)))
    return values / np.maximum(lengths, 1e-6)[:, None, None, None], lengths / np.sqrt(np.prod(values.shape[1:]))
