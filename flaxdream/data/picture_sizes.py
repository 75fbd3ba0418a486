"""Height and width of every picture of a set, read once and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.images import BrokenPicture
from flaxdream.data.picture_set import PictureSet

if TYPE_CHECKING:
    from jaxtyping import Int

CHUNK = 4096  # headers read between two reports; also the most that wait in the pool


@dataclass(frozen=True)
class PictureSizes:
    """What `plan_buckets` needs, and what cannot be read."""

    sizes: Int[np.ndarray, "n 2"]  # height, width; 0, 0 where the picture cannot be read
    broken: tuple[BrokenPicture, ...]


def picture_sizes(
    pictures: PictureSet,
    *,
    folder: Path | None = None,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PictureSizes:
    """Reads the headers with so many threads; from the file in `folder` if it knows these pictures already.

    A picture that cannot be read is asked again the next time. `progress` gets how many are done, and of how many.
    """
    file = None if folder is None else folder / f"sizes-{pictures.fingerprint}.npy"
    known = _read(file, len(pictures))
    sizes = np.zeros((len(pictures), 2), np.int32) if known is None else known
    missing = np.flatnonzero((sizes == 0).any(axis=1))
    broken: list[BrokenPicture] = []
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK].tolist()
            for index, size in zip(part, pool.map(partial(_size, pictures), part)):
                if isinstance(size, BrokenPicture):
                    broken.append(size)
                else:
                    sizes[index] = size
            if progress is not None:
                progress(len(pictures) - len(missing) + start + len(part), len(pictures))
    if file is not None and len(missing) > len(broken):
        _write(file, sizes)
    return PictureSizes(sizes, tuple(broken))


def _size(pictures: PictureSet, index: int) -> tuple[int, int] | BrokenPicture:
    try:
        return pictures.size(index)
    except BrokenPicture as problem:
        problem.__traceback__ = None
        return problem


def _read(file: Path | None, count: int) -> np.ndarray | None:
    """The sizes in the file; None if there is none, or it is damaged: then they are read anew."""
    try:
        sizes = np.load(file) if file is not None and file.exists() else None
    except (OSError, ValueError, EOFError):
        return None
    return sizes if sizes is not None and sizes.shape == (count, 2) and sizes.dtype == np.int32 else None


def _write(file: Path, sizes: np.ndarray) -> None:
    """Whole or not at all, also where two runs write it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with unfinished.open("wb") as opened:
            np.save(opened, sizes)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
