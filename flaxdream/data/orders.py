"""Which picture is in which row of which step: pure functions of (seed, step) that hold no list of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flaxdream.data.draws import Purpose
from flaxdream.data.shuffle import Shuffle

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    Rows = tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]

TABLES = 128  # shuffles kept: one an epoch, or one a bucket and epoch


class Order(Protocol):
    """Picture and weight of each row."""

    @property
    def epoch_length(self) -> int:
        """Rows of an epoch that show a picture."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""

    def at(self, step: int, rows: Sequence[int]) -> Rows:
        """Indices and weights of these rows of the step."""


class EndlessOrder:
    """Batches cut from the endless run of epochs, each a shuffle of all pictures, each picture `repeats` times.

    The tail of an epoch shares a batch with the head of the next, and no batch is smaller.
    """

    def __init__(self, count: int, batch_size: int, seed: int, repeats: int = 1):
        self.count, self.batch_size, self.epoch_length = count, batch_size, count * repeats
        address = lru_cache(maxsize=2)
        self._epoch = address(lambda epoch: Shuffle(seed, Purpose.EPOCH, (0, epoch), self.epoch_length))

    @property
    def steps_per_epoch(self) -> int:
        """As in diffusers, whose last batch of an epoch is smaller.

        Ours never is: after n times these steps the order is up to one batch a time further.
        """
        return math.ceil(self.epoch_length / self.batch_size)

    def at(self, step: int, rows: Sequence[int]) -> Rows:
        epochs, places = np.divmod(step * self.batch_size + np.asarray(rows, np.int64), self.epoch_length)
        indices = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = self._epoch(int(epoch))[places[here]] % self.count
        return indices, np.ones(len(indices))


class BucketOrder:
    """Batches of pictures of one bucket each; an epoch is whole steps and shows each picture `repeats` times.

    The last batch of a bucket is filled with rows of weight 0. A picture then always weighs as much as in a full
    batch, none waits for another epoch, and shapes stay as they are. Batches of all buckets are shuffled together.
    """

    def __init__(self, buckets: Sequence[Int[np.ndarray, " n"]], batch_size: int, seed: int, repeats: int = 1):
        """`buckets` are the pictures' indices, at least one in each."""
        self.buckets, self.batch_size, self.repeats, self.seed = list(buckets), batch_size, repeats, seed
        self.epoch_length = repeats * sum(map(len, self.buckets))
        batches = [math.ceil(len(bucket) * repeats / batch_size) for bucket in self.buckets]
        self._ends = np.cumsum(batches)
        self._shuffle = lru_cache(maxsize=TABLES)(lambda *address: Shuffle(seed, *address))

    @property
    def steps_per_epoch(self) -> int:
        return int(self._ends[-1])

    def at(self, step: int, rows: Sequence[int]) -> Rows:
        epoch, place = divmod(step, self.steps_per_epoch)
        batch = int(self._shuffle(Purpose.BATCHES, (0, epoch), self.steps_per_epoch)[np.array([place])][0])
        number = int(np.searchsorted(self._ends, batch, side="right"))
        bucket = self.buckets[number]
        first = batch - (int(self._ends[number - 1]) if number else 0)
        places = first * self.batch_size + np.asarray(rows, np.int64)
        length = len(bucket) * self.repeats
        deck = self._shuffle(Purpose.BUCKET_DECK, (number, epoch), length)
        there = places < length
        return bucket[deck[np.where(there, places, 0)] % len(bucket)].astype(np.int64), there.astype(np.float64)
