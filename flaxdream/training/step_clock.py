"""How long the steps took, and how long of it the device stood still for want of data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from flaxdream.training.step import Batch, batch_shapes


class StepClock:
    """For each step of a loop: `batch`, then `began` with what the step gives, and `taken` before all that is no step.

    A step is compiled where its batch has a shape that comes for the first time; such steps are not counted at all.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # of the steps
        self.data_seconds = 0.0  # of these: the step before had ended and the next batch was not there
        self._shapes: set[Any] = set()
        self._since, self._waited, self._counts = 0.0, 0.0, False
        self._ended: Future[float] | None = None  # when the last step did
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="flaxdream-clock")

    def batch(self, batches: Iterator[Batch]) -> Batch:
        """The next batch."""
        self._since = time.perf_counter()
        batch = next(batches)
        now = time.perf_counter()
        self._waited = 0.0
        if self._ended is not None and self._ended.done():  # else the device is still busy
            self._waited = now - max(self._since, self._ended.result())
        shapes = batch_shapes(batch)
        self._counts = shapes in self._shapes
        self._shapes.add(shapes)
        return batch

    def began(self, results: Mapping[str, Any]) -> None:
        """The step is on its way to the device."""
        self._ended = self._watcher.submit(_when_ready, results)

    def taken(self) -> None:
        """The loop has done what belongs to the step."""
        if self._counts:
            self.seconds += time.perf_counter() - self._since
            self.data_seconds += max(0.0, self._waited)

    def close(self) -> None:
        """Ends the thread that watches for the end of steps."""
        self._watcher.shutdown(wait=False)


def _when_ready(results: Mapping[str, Any]) -> float:
    jax.block_until_ready(results)
    return time.perf_counter()
