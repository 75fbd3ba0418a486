"""Random orders, written down and not."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdream.data import shuffle
from flaxdream.data.draws import Purpose, permutation
from flaxdream.data.shuffle import Shuffle


def order(count, seed=0, address=(0, 0)):
    return Shuffle(seed, Purpose.EPOCH, address, count)[np.arange(count)]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 9), table=st.booleans())
def test_every_number_comes_once(count, seed, epoch, table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "TABLE_OF_AT_MOST", 2**16 if table else 0)
        assert sorted(order(count, seed, (0, epoch))) == list(range(count))


def test_a_small_order_is_the_permutation_of_its_address():
    np.testing.assert_array_equal(order(100, 3, (1, 2)), permutation(3, Purpose.EPOCH, (1, 2), 100))


def test_a_large_order_is_a_permutation_without_a_table():
    count = 2**16 + 5
    found = order(count)
    np.testing.assert_array_equal(np.sort(found), np.arange(count))
    assert not np.array_equal(found, order(count, seed=1)) and not np.array_equal(found, order(count, address=(0, 1)))


def test_a_large_order_looks_random():
    """Held against what holds for uniform permutations: fixed points, rank correlation, neighbours, low bits."""
    count = 100_000
    found = order(count, seed=7)
    assert (found == np.arange(count)).sum() < 8
    assert abs(np.corrcoef(found, np.arange(count))[0, 1]) < 4 / np.sqrt(count)
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 4 / np.sqrt(count)
    counts = np.histogram2d(np.arange(count), found, bins=10)[0]  # 1,000 in each of 100 cells
    assert abs((counts - 1000) ** 2 / 1000).sum() < 140  # chi square with 81 degrees of freedom
    assert abs((found[: count // 2] % 2).mean() - 0.5) < 0.01


def test_small_enciphered_orders_reach_every_permutation(monkeypatch):
    monkeypatch.setattr(shuffle, "TABLE_OF_AT_MOST", 0)
    seen = [tuple(order(4, seed)) for seed in range(2400)]
    counts = np.array([seen.count(found) for found in set(seen)])
    assert len(counts) == 24 and counts.min() > 60 and counts.max() < 145


def test_a_hundred_million_things_take_no_memory():
    tracemalloc.start()
    found = Shuffle(0, Purpose.EPOCH, (0, 0), 10**8)[np.arange(256)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(found)) == 256 and found.max() > 9 * 10**7 and peak < 100_000


def test_places_outside_are_an_error():
    with pytest.raises(IndexError, match="places 3 to 5 of 5"):
        Shuffle(0, Purpose.EPOCH, (0, 0), 5)[np.array([3, 5])]
