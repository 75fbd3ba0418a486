"""Tensors of files on disk: where each lies in the memory-mapped file. Nothing is read until it is asked for."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from flaxdream.arrays import np

BLOCK = 64  # rows transposed at a time


class MappedFile:
    """A file mapped for reading; pages that were read are given back with `release`."""

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            self.size = file.seek(0, 2)
            self.buffer: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""

    def release(self, start: int, stop: int) -> None:
        """Drops the pages wholly inside the range from this process's memory; they can be read again."""
        first, last = -(-start // mmap.PAGESIZE), stop // mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a mapped file, in the layout of that file."""

    file: MappedFile
    dtype: np.dtype | str  # a str is a type that we do not read, as the file calls it
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]  # (start, stop) in bytes; more than one only in old Flax files
    flax_path: str | None = None  # our path of it, when the file is Flax's and the layout ours already

    @property
    def start(self) -> int:
        return self.pieces[0][0] if self.pieces else 0

    def view(self) -> np.ndarray:
        """The tensor as a view of the mapped file: a page is read when it is touched."""
        assert isinstance(self.dtype, np.dtype)
        flat = [
            np.frombuffer(self.file.buffer, self.dtype, (stop - start) // self.dtype.itemsize, start)
            for start, stop in self.pieces
        ]
        return (flat[0] if len(flat) == 1 else np.concatenate([np.empty(0, self.dtype), *flat])).reshape(self.shape)

    def release(self) -> None:
        """Gives back the memory of the pages that the tensor fills."""
        for start, stop in self.pieces:
            self.file.release(start, stop)


def host_copy(array: Any) -> np.ndarray:
    """The array's values in host memory, not to be kept: on CPU devices they may be the array's own memory.

    `np.asarray` of a jax.Array keeps the copy on that array for good, a second model in host memory once a
    whole tree was written. So the copy is taken through another array that has the same buffers.
    """
    if not isinstance(array, jax.Array):
        return np.asarray(array)
    if not (array.is_fully_addressable or array.is_fully_replicated):
        raise ValueError(
            f"an array of shape {array.shape} is spread over several hosts; gather it first "
            "(jax.experimental.multihost_utils.process_allgather)."
        )
    shards = [shard.data for shard in array.addressable_shards]
    return np.asarray(jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards))


def contiguous(view: np.ndarray, dtype: Any) -> np.ndarray:
    """A copy of `view` in memory order and of another type: never the mapped memory itself.

    Raises FloatingPointError when a value is too large for `dtype`.
    """
    with np.errstate(over="raise"):
        return _in_memory_order(view).astype(dtype, copy=False)


def _in_memory_order(view: np.ndarray) -> np.ndarray:
    """A copy of a permuted array, four times faster than numpy's own."""
    if view.flags.c_contiguous:  # so are those without elements
        return np.array(view)
    if view.ndim > 2 and np.argmin(np.abs(view.strides)) == 0:
        # (window, in, out) to (out, in, window): first whole rows, then one matrix transpose.
        rows = np.array(np.moveaxis(view, 0, -1), order="C")
        return _in_blocks(rows.reshape(-1, len(view)).T).reshape(view.shape)
    return _in_blocks(view)


def _in_blocks(view: np.ndarray) -> np.ndarray:
    """A copy made along the axis that lies furthest apart in memory, a few rows at a time: they stay in the cache."""
    out = np.empty(view.shape, view.dtype)
    axis = int(np.argmax(np.abs(view.strides))) if view.ndim else 0
    source, target = (np.moveaxis(array, axis, 0) for array in np.atleast_1d(view, out))
    for row in range(0, len(source), BLOCK):
        target[row : row + BLOCK] = source[row : row + BLOCK]
    return out
