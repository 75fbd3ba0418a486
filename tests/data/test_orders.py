"""Which picture is in which row: every picture once an epoch, whatever the sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdream.data import shuffle
from flaxdream.data.orders import BucketOrder, EndlessOrder

SIZES = {"batch_size": st.integers(1, 9), "seed": st.integers(0, 2**32), "repeats": st.integers(1, 3)}


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 12), epoch=st.integers(0, 5), table=st.booleans(), **SIZES)
def test_each_epoch_of_the_endless_run_shows_each_picture_repeats_times(count, batch_size, seed, repeats, epoch, table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "TABLE_OF_AT_MOST", 2**16 if table else 0)
        order = EndlessOrder(count, batch_size, seed, repeats)
        first = epoch * order.epoch_length
        steps = range(first // batch_size, (first + order.epoch_length - 1) // batch_size + 1)
        run = np.concatenate([order.at(step, range(batch_size))[0] for step in steps])
    epoch_run = run[first % batch_size :][: order.epoch_length]
    assert Counter(epoch_run.tolist()) == dict.fromkeys(range(count), repeats)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=5), epoch=st.integers(0, 5), **SIZES)
def test_batches_never_mix_buckets_and_an_epoch_shows_each_picture_repeats_times(
    counts, epoch, batch_size, seed, repeats
):
    ends = np.cumsum(counts)
    buckets = [np.arange(end - count, end) for count, end in zip(counts, ends)]
    order = BucketOrder(buckets, batch_size, seed, repeats)
    assert order.epoch_length == sum(counts) * repeats
    times: Counter[int] = Counter()
    for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
        indices, weights = order.at(step, range(batch_size))
        assert len(set(np.searchsorted(ends, indices, side="right"))) == 1
        assert set(weights) <= {0.0, 1.0} and weights[0] == 1
        times.update(indices[weights == 1].tolist())
    assert times == dict.fromkeys(range(sum(counts)), repeats)
    assert order.steps_per_epoch == sum(-(-count * repeats // batch_size) for count in counts)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    hosts=st.sampled_from([1, 2, 4]),
)
def test_hosts_that_ask_for_their_rows_alone_share_the_same_batch(counts, seed, hosts):
    ends = np.cumsum(counts)
    make = [
        lambda: BucketOrder([np.arange(end - count, end) for count, end in zip(counts, ends)], 4 * hosts, seed),
        lambda: EndlessOrder(sum(counts), 4 * hosts, seed),
    ]
    for order in make:
        for step in (17, 3, 0):
            whole = order().at(step, range(4 * hosts))
            parts = [order().at(step, range(4 * host, 4 * host + 4)) for host in range(hosts)]
            for number in range(2):
                np.testing.assert_array_equal(np.concatenate([part[number] for part in parts]), whole[number])


def test_buckets_come_in_another_order_in_each_epoch_and_mixed():
    order = BucketOrder([np.arange(8), np.arange(8, 16)], 2, 0)
    epochs = [tuple(order.at(epoch * 8 + step, [0])[0][0] >= 8 for step in range(8)) for epoch in range(6)]
    assert len(set(epochs)) > 3 and all(sum(epoch) == 4 for epoch in epochs)
    shown = [tuple(order.at(step, range(2))[0]) for step in range(48)]
    assert len(set(shown)) > 30  # of 112 pairs
