"""A random order of many things, asked for place by place; where they are very many it is never written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.draws import Purpose, permutation, words

if TYPE_CHECKING:
    from jaxtyping import Int

TABLE_OF_AT_MOST = 2**16  # things; their order is a table of 512 KiB
ROUNDS = 8


class Shuffle:
    """The numbers 0..count-1 in the random order of an address; `shuffle[places]` are those at the places.

    Above 65,536 the order is that of a Feistel network (Luby and Rackoff 1988), whose memory does not grow: numbers
    of 2 k bits are enciphered, the smallest k that holds the count, and enciphered anew while they are not below it.
    """

    def __init__(self, seed: int, purpose: Purpose, address: tuple[int, int], count: int):
        self.count = count
        self._table = permutation(seed, purpose, address, count) if count <= TABLE_OF_AT_MOST else None
        self._keys = words(seed, purpose, address, ROUNDS)
        self._half = np.uint64(((count - 1).bit_length() + 1) // 2)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        places = np.asarray(places)
        if places.size and not 0 <= places.min() <= places.max() < self.count:
            raise IndexError(f"places {places.min()} to {places.max()} of {self.count}")
        if self._table is not None:
            return self._table[places]
        found = places.astype(np.uint64)
        waiting = np.ones(found.shape, bool)
        while waiting.any():
            found[waiting] = self._enciphered(found[waiting])
            waiting = found >= self.count
        return found.astype(np.int64)

    def _enciphered(self, numbers: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << self._half) | right


def _mixed(words: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer: every bit of the word moves every bit of the result."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
