"""What is computed once of pictures and captions, on disk: files that appear whole and are checked when read.

A file holds a few hundred rows and is named by all that made their numbers: the network, the size and cut, and the
bytes of each picture or caption. So a build that was killed goes on where it stopped and ends with the same files, two
builds at once write the same ones, and another model or an edited picture never meets an old file. `NAME.npy` holds
the rows, `NAME.json`, written last, its digest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1
from pathlib import Path

import numpy as np

from flaxdream.data.digests import content_digest, text_digest
from flaxdream.data.rows import RowSource

GROUP = 256  # rows of a file


class Shards(Mapping[int, np.ndarray]):
    """The row of each index, once `missing` is empty; files are memory-mapped."""

    def __init__(self, folder: str | Path, groups: Sequence[Sequence[int]], names: Sequence[str]):
        """`groups` are the indices of each file, `names` the files' names."""
        self.folder, self.groups, self._names = Path(folder), groups, names
        self.folder.mkdir(parents=True, exist_ok=True)
        self._place = {index: (file, row) for file, group in enumerate(groups) for row, index in enumerate(group)}
        self._open: dict[int, np.ndarray] = {}

    def missing(self) -> list[int]:
        """Numbers of the groups that have no file yet."""
        return [number for number, name in enumerate(self._names) if not (self.folder / f"{name}.json").is_file()]

    def write(self, number: int, rows: np.ndarray) -> None:
        """Keeps the rows of a group, in its order; the file is there whole or not at all."""
        file = self.folder / f"{self._names[number]}.npy"
        partial = file.with_suffix(f".{os.getpid()}.partial")
        try:
            with partial.open("wb") as out:
                np.save(out, np.ascontiguousarray(rows))
                out.flush()
                os.fsync(out.fileno())
            digest = content_digest(partial)
            os.replace(partial, file)
            partial.write_text(json.dumps({"sha1": digest, "shape": list(rows.shape)}), encoding="utf-8")
            os.replace(partial, file.with_suffix(".json"))
        finally:
            partial.unlink(missing_ok=True)

    def __getitem__(self, index: int) -> np.ndarray:
        number, row = self._place[index]
        if number not in self._open:
            self._open[number] = self._checked(number)
        return self._open[number][row]

    def __iter__(self) -> Iterator[int]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def _checked(self, number: int) -> np.ndarray:
        """The file's array, left on disk until it is read; ValueError if its bytes are not what was written."""
        file = self.folder / f"{self._names[number]}.npy"
        record = file.with_suffix(".json")
        try:
            wanted = json.loads(record.read_text(encoding="utf-8"))["sha1"]
            if content_digest(file) == wanted:
                return np.load(file, mmap_mode="r")
        except (OSError, ValueError, KeyError):
            pass
        record.unlink(missing_ok=True)
        raise ValueError(
            f"{file} is damaged or gone. Start again: its {len(self.groups[number])} rows are made anew, all others "
            "are kept."
        )


def picture_shards(folder: str | Path, source: RowSource, maker: str, num_workers: int = 0) -> Shards:
    """Shards for the pictures of a source, those of one size together; `maker` names what makes their rows.

    All pictures' bytes are read once, for their digests.
    """
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        digests = list(pool.map(lambda index: _bytes_digest(source, index), range(len(source))))
    groups = _cut(range(len(source)), [source.resolution(index) for index in range(len(source))])
    sizes = [str(source.resolution(group[0])) for group in groups]
    names = [
        text_digest([maker, size, *(digests[i] for i in group)]) for size, group in zip(sizes, groups, strict=True)
    ]
    return Shards(folder, groups, names)


def caption_shards(folder: str | Path, captions: Sequence[str], maker: str) -> Shards:
    """Shards for captions; `maker` names what makes their rows."""
    groups = _cut(range(len(captions)), [None] * len(captions))
    return Shards(folder, groups, [text_digest([maker, *(captions[index] for index in group)]) for group in groups])


def _cut(indices: Sequence[int], kinds: Sequence[Hashable]) -> list[list[int]]:
    """Runs of indices of one kind, in order."""
    by_kind: dict[Hashable, list[int]] = {}
    for index, kind in zip(indices, kinds, strict=True):
        by_kind.setdefault(kind, []).append(index)
    return [same[start : start + GROUP] for same in by_kind.values() for start in range(0, len(same), GROUP)]


def _bytes_digest(source: RowSource, index: int) -> str:
    path, data = source.stored(index)
    return content_digest(path) if data is None else sha1(data, usedforsecurity=False).hexdigest()
