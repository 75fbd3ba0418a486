"""Which picture is in which row of which step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdream.data.concept_pictures import Picture
from flaxdream.data.dreambooth import DreamBoothRows


def pictures(instances, classes=()):
    """`instances[c]` and `classes[c]` pictures of concept c."""
    return [
        Picture(Path(f"{kind}{concept}/{number}.png"), f"{kind} {concept}", concept, kind == "class")
        for kind, counts in (("instance", instances), ("class", classes))
        for concept, count in enumerate(counts)
        for number in range(count)
    ]


def shown(rows, first_slot, count, is_class=False):
    """Picture indices of `count` slots from one on, whatever batch they are in."""
    steps = range(first_slot // rows.batch_size, (first_slot + count - 1) // rows.batch_size + 1)
    run = [row.index for step in steps for row in rows.rows(step) if row.is_class == is_class]
    return run[first_slot % rows.batch_size :][:count]


SIZES = {"count": st.integers(1, 9), "batch_size": st.integers(1, 7), "seed": st.integers(0, 2**32)}


@settings(max_examples=30, deadline=None)
@given(**SIZES, repeats=st.integers(1, 3), epoch=st.integers(0, 4))
def test_an_epoch_shows_each_picture_exactly_repeats_times(count, batch_size, seed, repeats, epoch):
    rows = DreamBoothRows(pictures([count]), batch_size, seed, repeats=repeats)
    assert rows.epoch_length == count * repeats
    counts = Counter(shown(rows, epoch * rows.epoch_length, rows.epoch_length))
    assert counts == {index: repeats for index in range(count)}


@settings(max_examples=30, deadline=None)
@given(**SIZES, classes=st.integers(1, 12), start=st.integers(0, 5))
def test_class_pictures_take_turns_too(count, batch_size, seed, classes, start):
    rows = DreamBoothRows(pictures([count], [classes]), batch_size, seed, prior_loss_weight=1.0)
    counts = Counter(shown(rows, start * classes, classes, is_class=True))
    if count == 1 or classes == 1:  # else epochs and decks end at different places, and an epoch is shuffled as a whole
        assert counts == {index: 1 for index in range(count, count + classes)}
    whole = Counter(shown(rows, 0, count * classes, is_class=True))
    assert whole == {index: count for index in range(count, count + classes)}


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, 6), min_size=2, max_size=4), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_concepts_have_equal_shares_and_their_pictures_too_to_within_one(counts, seed, epoch):
    rows = DreamBoothRows(pictures(counts), 3, seed)
    shares = Counter(
        rows.pictures[index].concept for index in shown(rows, epoch * rows.epoch_length, rows.epoch_length)
    )
    assert shares == dict.fromkeys(range(len(counts)), max(counts))
    times = Counter(shown(rows, 0, (epoch + 1) * rows.epoch_length))
    for concept, count in enumerate(counts):
        of_concept = [times[index] for index, picture in enumerate(rows.pictures) if picture.concept == concept]
        assert len(of_concept) == count and max(of_concept) - min(of_concept) <= 1


def test_repeats_of_concepts_replace_equal_shares():
    rows = DreamBoothRows(pictures([2, 3, 1]), 4, 0, repeats=2, concept_repeats=[10, None, 5])
    assert rows.shares == {0: 40, 1: 6, 2: 10}
    assert Counter(shown(rows, 56, 56)) == {0: 20, 1: 20, 2: 2, 3: 2, 4: 2, 5: 10}


def test_each_epoch_and_each_seed_has_its_own_order():
    rows = DreamBoothRows(pictures([20]), 20, 0)
    orders = [tuple(shown(rows, 20 * epoch, 20)) for epoch in range(3)]
    orders.append(tuple(shown(DreamBoothRows(pictures([20]), 20, 1), 0, 20)))
    assert len(set(orders)) == 4


def test_a_step_is_the_same_whenever_and_by_whomever_it_is_asked_for():
    rows, again = (DreamBoothRows(pictures([5], [7]), 3, 4, prior_loss_weight=1.0) for _ in range(2))
    unbroken = [rows.rows(step) for step in range(30)]
    assert [again.rows(step) for step in reversed(range(30))] == unbroken[::-1]


def test_each_instance_row_is_followed_by_a_class_row_of_its_concept():
    rows = DreamBoothRows(pictures([2, 3], [4, 1]), 4, 0, prior_loss_weight=0.3)
    assert rows.batch_rows == 8
    for step in range(5):
        batch = rows.rows(step)
        assert [row.row for row in batch] == list(range(8))
        assert [row.is_class for row in batch] == [False, True] * 4
        assert [row.weight for row in batch] == [2.0, 0.6] * 4
        assert all(batch[place].concept == batch[place + 1].concept for place in range(0, 8, 2))
        assert all(row.caption == f"{'class' if row.is_class else 'instance'} {row.concept}" for row in batch)


def test_weights_make_the_mean_of_the_batch_the_sum_of_the_paper():
    batch = DreamBoothRows(pictures([4], [4]), 4, 0, prior_loss_weight=0.3).rows(0)
    losses = np.where([row.is_class for row in batch], 10.0, 1.0)
    assert np.mean(losses * [row.weight for row in batch]) == pytest.approx(1.0 + 0.3 * 10.0)


def test_rows_weigh_one_without_prior_preservation_and_class_pictures_stay_away():
    rows = DreamBoothRows(pictures([2], [3]), 4, 0)
    assert rows.batch_rows == 4
    assert {(row.weight, row.is_class) for step in range(4) for row in rows.rows(step)} == {(1.0, False)}


def test_draws_belong_to_step_and_row_and_not_to_the_picture():
    rows = DreamBoothRows(pictures([1]), 3, 0)
    draws = [(row.crop_draw, row.flip_draw) for step in range(3) for row in rows.rows(step)]
    assert len(set(draws)) == 9
    assert draws[0] == ((rows.rows(0)[0].crop_draw), rows.rows(0)[0].flip_draw)


@pytest.mark.parametrize(
    ("instances", "classes", "batch_size", "expected"),
    # diffusers: ceil(max(instance pictures, class pictures) / batch)
    [
        ([5], [], 2, 3),
        ([5], [100], 2, 50),
        ([5], [100], 3, 34),
        ([7], [3], 4, 2),
        ([1], [], 8, 1),
        ([2, 3], [3, 4], 2, 4),
    ],
)
def test_epochs_stand_for_as_many_steps_as_in_diffusers(instances, classes, batch_size, expected):
    weight = 1.0 if classes else None
    rows = DreamBoothRows(pictures(instances, classes), batch_size, 0, prior_loss_weight=weight)
    assert rows.steps_per_epoch == expected


def test_what_cannot_be_trained_is_refused_at_once():
    with pytest.raises(ValueError, match=r"batch size 0.*repeats 0.*concepts \[1\] have none"):
        DreamBoothRows(pictures([1, 1], [1]), 0, 0, prior_loss_weight=1.0, repeats=0)
    with pytest.raises(ValueError, match="there is no instance picture"):
        DreamBoothRows([], 1, 0)


def test_the_fingerprint_follows_names_bytes_and_captions(tmp_path):
    def fingerprint(name="a.png", content=b"1", caption="a"):
        (tmp_path / name).write_bytes(content)
        return DreamBoothRows([Picture(tmp_path / name, caption, 0, False)], 1, 0).fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(name="b.png"), fingerprint(content=b"12"), fingerprint(caption="b")}) == 4
