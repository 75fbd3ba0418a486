"""Texts of many pictures, packed: a Python string each would cost more than what it says."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise


class TextTable(Sequence[tuple[str, ...]]):
    """Entries of any number of texts each, in one block of UTF-8 and two lists of offsets."""

    def __init__(self, entries: Iterable[Sequence[str]] = ()):
        self._bytes, self._ends, self._firsts = bytearray(), array("q", [0]), array("q", [0])
        for entry in entries:
            self.append(entry)

    def append(self, texts: Sequence[str]) -> None:
        """One more entry; file names that are not Unicode pass through as they do in `os.fsdecode`."""
        for text in texts:
            self._bytes += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))
        self._firsts.append(len(self._ends) - 1)

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, index):  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"entry {index} of {len(self)}")
        first, last = self._firsts[index], self._firsts[index + 1]
        bounds = self._ends[first : last + 1]
        return tuple(self._bytes[start:end].decode("utf-8", "surrogateescape") for start, end in pairwise(bounds))
