"""Random numbers with an address: the same (seed, purpose, step, row) gives the same number, on any machine.

Philox is a counter-based generator: the address is its key and counter, so that nothing is drawn in sequence and
no global state exists. Only `random_raw` is used, whose stream numpy promises never to change; what
`np.random.Generator` makes of it may change with a version of numpy.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

WORD = 2**64


class Purpose(IntEnum):
    """What a number is drawn for; numbers of different purposes are independent. Never renumber."""

    CROP_AND_FLIP = 0
    EPOCH = 1
    INSTANCE_DECK = 2
    CLASS_DECK = 3
    CAPTION = 4
    TAGS = 5
    SAMPLES = 6
    HELD_OUT = 7
    BATCHES = 8
    BUCKET_DECK = 9
    STREAM = 10


def words(seed: int, purpose: Purpose, address: tuple[int, int], count: int) -> np.ndarray:
    """`count` uniform 64-bit integers at the address, for example (step, row)."""
    high, low = address
    key = np.array([seed % WORD, int(purpose)], np.uint64)  # a plain list would pass through float64
    counter = np.array([0, low % WORD, high % WORD, 0], np.uint64)
    return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(count))


def uniforms(seed: int, purpose: Purpose, address: tuple[int, int], count: int) -> np.ndarray:
    """`count` numbers in 0..1, 1 excluded, with all 53 bits of a float64."""
    return (words(seed, purpose, address, count) >> np.uint64(11)) * 2.0**-53


def permutation(seed: int, purpose: Purpose, address: tuple[int, int], count: int) -> np.ndarray:
    """The numbers 0..count-1 in the address's own random order."""
    return np.argsort(words(seed, purpose, address, count), kind="stable")
