"""Things that are begun ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def held_back(begun: Iterable[T], count: int) -> Iterator[T]:
    """The same things in their order; each comes when `count` more have been begun, or there are no more."""
    waiting = deque[T]()
    for thing in begun:
        waiting.append(thing)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
