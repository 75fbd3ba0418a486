"""One look at every picture of a set: what the file is, and what there is to compare pictures by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flaxdream.data.images import BrokenPicture, Header, read_small
from flaxdream.data.near_duplicates import GREY, THUMB, difference_hash, thumbnail
from flaxdream.data.picture_set import PictureSet
from flaxdream.data.sharpness import sharpness

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8, UInt64

CHUNK = 512  # pictures that wait in the pool


@dataclass(frozen=True)
class Examined:
    """All that was seen, by picture; of one that cannot be read there is the reason alone."""

    headers: tuple[Header | None, ...]
    digests: tuple[bytes, ...]  # of the files' bytes
    hashes: UInt64[np.ndarray, "n 2"]
    thumbs: UInt8[np.ndarray, "n 16 16 3"]
    sharpness: Float[np.ndarray, " n"]
    broken: dict[int, str]

    @property
    def readable(self) -> Int[np.ndarray, " k"]:
        """The pictures that can be read."""
        return np.array([index for index, header in enumerate(self.headers) if header is not None], np.int64)

    @property
    def sizes(self) -> Int[np.ndarray, "n 2"]:
        """Height and width as shown; 0, 0 where a picture cannot be read."""
        return np.array([header.size if header else (0, 0) for header in self.headers], np.int32).reshape(-1, 2)


class _Look(NamedTuple):
    header: Header
    digest: bytes
    hash: UInt64[np.ndarray, " two"]
    thumb: UInt8[np.ndarray, "16 16 3"]
    sharpness: float


def examine(
    pictures: PictureSet,
    resolution: int,
    *,
    num_workers: int = 1,
    progress: Callable[[int], object] = lambda done: None,
) -> Examined:
    """Reads every picture to its end, in so many threads; none is kept. `progress` gets how many more are done.

    Sharpness is that at the size of training: the shorter side made `resolution` pixels where it is longer.
    """
    count = len(pictures)
    headers: list[Header | None] = [None] * count
    digests, broken = [b""] * count, {}
    hashes, thumbs = np.zeros((count, 2), np.uint64), np.zeros((count, THUMB, THUMB, 3), np.uint8)
    sharp = np.full(count, np.nan, np.float32)
    pool = ThreadPoolExecutor(max(1, num_workers))
    try:
        for start in range(0, count, CHUNK):
            indices = range(start, min(start + CHUNK, count))
            for index, look in zip(indices, pool.map(partial(_look, pictures, resolution), indices)):
                if isinstance(look, str):
                    broken[index] = look
                else:
                    headers[index], digests[index], hashes[index], thumbs[index], sharp[index] = look
                progress(1)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run does not wait for what is in the queue
    return Examined(tuple(headers), tuple(digests), hashes, thumbs, sharp, broken)


def _look(pictures: PictureSet, resolution: int, index: int) -> _Look | str:
    try:
        path, data = pictures.stored(index)
        data = _bytes(path) if data is None else data
        pixels, header = read_small(path, resolution, data)
    except BrokenPicture as problem:
        return problem.reason
    grey = pixels @ GREY
    digest = b"" if data is None else hashlib.sha1(data, usedforsecurity=False).digest()
    return _Look(header, digest, difference_hash(pixels), thumbnail(pixels), sharpness(grey))


def _bytes(path: Path) -> bytes | None:
    """The file's bytes; None if it cannot be read, which `read_small` then explains."""
    try:
        return path.read_bytes()
    except OSError:
        return None
