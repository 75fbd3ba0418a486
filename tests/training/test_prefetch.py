"""Batches made ahead: in order, no more than asked for, and nothing left behind when the loop leaves."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from flaxdream.training.prefetch import prefetched


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("flaxdream-prefetch")]


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_every_batch_comes_in_order(ahead):
    assert list(prefetched(iter(range(20)), ahead)) == list(range(20))
    assert list(prefetched(iter([]), ahead)) == []
    assert not threads()


def test_so_many_are_made_while_one_is_in_use_and_not_one_more():
    made = []
    batches = prefetched((made.append(number) or number for number in range(9)), 2)
    assert not made  # nobody has asked
    with contextlib.closing(batches):
        assert next(batches) == 0
        until(lambda: len(made) == 3)
        time.sleep(0.05)
        assert made == [0, 1, 2]
        assert next(batches) == 1
        until(lambda: len(made) == 4)


def test_an_error_comes_where_its_batch_would():
    def broken():
        yield from (0, 1, 2)
        raise ValueError("no picture")

    batches = prefetched(broken())
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no picture"):
        next(batches)
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whoever_leaves_early_ends_the_thread_and_closes_the_source(error):
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with pytest.raises(error), contextlib.closing(prefetched(endless())) as batches:
        next(batches)
        raise error
    assert closed and not threads()
