"""Batches of arrays from a row source: decoded, cropped and ready before the step asks for them."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.decoding import AVAILABLE, Decoders
from flaxdream.data.held_back import held_back
from flaxdream.data.images import BrokenPicture, Crop, crop, read_to_cover, resized_size, to_model_range
from flaxdream.data.rows import Row, RowSource

if TYPE_CHECKING:
    from jaxtyping import UInt8

Batch = dict[str, np.ndarray]
Read = Callable[[Path, tuple[int, int], str, bytes | None], tuple[np.ndarray, tuple[int, int]]]
GREY = 128  # pixels of a broken picture, whose row weighs nothing


@dataclass(frozen=True)
class LoaderSettings:
    """How pictures are cut, and the means used for it; the latter never change a batch."""

    resolution: tuple[int, int]
    """Height and width in pixels, where the source has none of its own for a picture."""
    center_crop: bool = False
    """The middle of each picture, not a place drawn anew for each row and step."""
    random_flip: bool = False
    interpolation: str = "bilinear"
    float_pixels: bool = True
    """Pixels as float32 in -1..1, else as uint8."""
    skip_broken: bool = False
    """A picture that cannot be read gives a row of weight 0, not an error."""
    num_workers: int = 0
    """Processes that decode and resize; 0 decodes here: a batch when it is asked for, `pictures` in a thread."""
    prefetch: int = 2
    """Batches made ahead by the workers or that thread."""
    cache_bytes: int = 2**30
    """Memory for resized, uncropped pictures; those that find no room are decoded each time."""


class Loader:
    """The batches of one process, from any step on.

    A batch has, for each of the process's rows: `pixels` [rows, H, W, 3] (at one step all have one size), `weight`
    (float32), `row` (place in the global batch), `index` (of the picture), `caption` (texts), `caption_index` (in
    `source.captions`; -1 where they are not fixed), `concept`, `is_class`, `top_left` and `original_size` [rows, 2].
    """

    def __init__(
        self,
        source: RowSource,
        settings: LoaderSettings,
        *,
        process_index: int = 0,
        process_count: int = 1,
        local_rows: Sequence[int] | None = None,
    ):
        """The process gets an equal run of rows, or `local_rows` where a mesh spreads them otherwise."""
        self.source, self.settings = source, settings
        self.local_rows = tuple(local_rows if local_rows is not None else _share(source, process_index, process_count))
        self.broken: dict[Path, str] = {}  # found so far, with skip_broken
        self._cache = _Cache(settings.cache_bytes if source.random_access else 0)

    @cached_property
    def augments(self) -> bool:
        """Whether a picture may look different at another step: then its latents cannot be kept.

        False with center_crop, and also where no picture leaves room for another crop. Of a stream no picture is kept.
        """
        if self.settings.random_flip or not self.source.random_access:
            return True
        return not self.settings.center_crop and any(map(self._leaves_room, range(len(self.source))))

    def batch(self, step: int) -> Batch:
        """The process's rows of one step; BrokenPicture if one cannot be read."""
        rows = self.source.rows(step, self.local_rows)
        batch = self._empty(rows)
        for place, row in enumerate(rows):
            self._fill(read_to_cover, batch, place, row)
        return batch

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of steps start, start + 1, ... up to stop, without end if it is None."""
        steps = itertools.count(start) if stop is None else range(start, stop)
        count = self.settings.num_workers
        if not count:
            yield from map(self.batch, steps)
            return
        with _workers(count) as (pool, read):
            begun = (self._begun(pool, read, step) for step in steps)
            yield from (_done(*one) for one in held_back(begun, self.settings.prefetch))

    def picture(self, index: int, flip: bool = False) -> Crop:
        """The picture as every step sees it if nothing `augments`; the crop is the middle one."""
        return self._picture(read_to_cover, index, flip)

    def pictures(self, batches: Iterable[Sequence[int]]) -> Generator[list[Crop], None, None]:
        """The pictures of each batch of indices as `picture` gives them, made ahead of their use; to be closed."""
        with _workers(self.settings.num_workers) as (pool, read):
            begun = ([pool.submit(self._picture, read, index) for index in indices] for indices in batches)
            for futures in held_back(begun, self.settings.prefetch):
                yield [future.result() for future in futures]

    def _begun(self, pool: ThreadPoolExecutor, read: Read, step: int) -> tuple[Batch, list[Future]]:
        """The batch of a step, and what fills it."""
        rows = self.source.rows(step, self.local_rows)
        batch = self._empty(rows)
        return batch, [pool.submit(self._fill, read, batch, place, row) for place, row in enumerate(rows)]

    def _picture(self, read: Read, index: int, flip: bool = False) -> Crop:
        resized, size = self._resized(read, index)
        return crop(resized, self.resolution(index), size, center_crop=True, flip=flip)

    def resolution(self, index: int) -> tuple[int, int]:
        """Height and width to which the picture is cut."""
        return self.source.resolution(index) or self.settings.resolution

    def _empty(self, rows: Sequence[Row]) -> Batch:
        shape = (len(rows), *self.resolution(rows[0].index), 3)
        return {
            "pixels": np.empty(shape, np.float32 if self.settings.float_pixels else np.uint8),
            "weight": np.array([row.weight for row in rows], np.float32),
            "row": np.array([row.row for row in rows], np.int32),
            "index": np.array([row.index for row in rows], np.int32),
            "caption": np.array([row.caption for row in rows], object),
            "caption_index": np.array([row.caption_index for row in rows], np.int32),
            "concept": np.array([row.concept for row in rows], np.int32),
            "is_class": np.array([row.is_class for row in rows], bool),
            "top_left": np.zeros((len(rows), 2), np.int32),
            "original_size": np.zeros((len(rows), 2), np.int32),
        }

    def _fill(self, read: Read, batch: Batch, place: int, row: Row) -> None:
        """Writes one row's pixels into the batch."""
        settings, resolution = self.settings, batch["pixels"].shape[1:3]
        try:
            resized, size = self._resized(read, row.index)
        except BrokenPicture as problem:
            if not settings.skip_broken:
                raise
            self.broken[problem.path] = problem.reason
            batch["weight"][place] = 0
            cut = Crop(np.full((*resolution, 3), GREY, np.uint8), (0, 0), resolution)
        else:
            flip = settings.random_flip and row.flip_draw < 0.5
            cut = crop(resized, resolution, size, center_crop=settings.center_crop, crop_draw=row.crop_draw, flip=flip)
        batch["pixels"][place] = to_model_range(cut.pixels) if settings.float_pixels else cut.pixels
        batch["top_left"][place] = cut.top_left
        batch["original_size"][place] = cut.original_size

    def _resized(self, read: Read, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]:
        """The picture at the size from which crops are cut, and its own size."""
        if (known := self._cache.get(index)) is not None:
            return known
        path, data = self.source.stored(index)
        resized, size = read(path, self.resolution(index), self.settings.interpolation, data)
        self._cache.put(index, resized, size)
        return resized, size

    def _leaves_room(self, index: int) -> bool:
        try:
            resolution = self.resolution(index)
            return resized_size(self.source.size(index), resolution) != resolution
        except BrokenPicture:
            if self.settings.skip_broken:
                return False
            raise


@contextlib.contextmanager
def _workers(count: int) -> Iterator[tuple[ThreadPoolExecutor, Read]]:
    """So many processes that read, and a thread for each, which asks, waits and cuts; of none one thread that reads."""
    with Decoders(count if AVAILABLE else 0) as decoders:
        pool = ThreadPoolExecutor(max(1, count), thread_name_prefix="flaxdream-loader")
        try:
            yield pool, decoders.read_to_cover if count and AVAILABLE else read_to_cover
        finally:
            pool.shutdown(cancel_futures=True)


def _done(batch: Batch, futures: list[Future]) -> Batch:
    for future in futures:
        future.result()
    return batch


class _Cache:
    """Keeps what comes first and then no more.

    Epochs walk through all pictures in ever new orders: to throw out the oldest would throw out what comes next.
    """

    def __init__(self, room: int):
        self._room, self._kept, self._lock = room, {}, threading.Lock()  # type: ignore[var-annotated]

    def get(self, index: int) -> tuple[np.ndarray, tuple[int, int]] | None:
        return self._kept.get(index)

    def put(self, index: int, resized: np.ndarray, size: tuple[int, int]) -> None:
        with self._lock:
            if index not in self._kept and resized.nbytes <= self._room:
                self._room -= resized.nbytes
                self._kept[index] = (resized, size)


def _share(source: RowSource, process_index: int, process_count: int) -> range:
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count} processes; expected 0 to {process_count - 1}")
    if source.batch_rows % process_count:
        raise ValueError(f"a batch of {source.batch_rows} rows cannot be cut into {process_count} equal parts")
    share = source.batch_rows // process_count
    return range(process_index * share, (process_index + 1) * share)
