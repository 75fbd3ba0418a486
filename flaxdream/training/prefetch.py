"""Batches made ahead of the loop, so that the next one lies on the device when a step ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
AHEAD = 2  # batches
END: Any = object()


def prefetched(batches: Iterator[T], ahead: int = AHEAD) -> Generator[T, None, None]:
    """The same batches; `ahead` of them are made by a thread while the last one is in use, and never more.

    The thread starts when the first batch is asked for. An error comes where its batch would. The batches are to be
    closed, which waits for the one that is being made, closes `batches` too and ends the thread.
    """
    maker = ThreadPoolExecutor(1, thread_name_prefix="flaxdream-prefetch")
    coming: deque[Future[T]] = deque(maker.submit(next, batches, END) for _ in range(ahead))
    try:
        while (batch := coming.popleft().result()) is not END:
            coming.append(maker.submit(next, batches, END))
            yield batch
    finally:
        maker.shutdown(cancel_futures=True)
        if isinstance(batches, Generator):
            batches.close()
