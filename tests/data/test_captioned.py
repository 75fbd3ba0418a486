"""Which picture with which caption is in which row of which step."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxdream.data.buckets import bucket_table, plan_buckets
from flaxdream.data.captioned import CaptionedRows
from flaxdream.data.held_out import HeldOutRows
from flaxdream.data.images import BrokenPicture, read_picture
from flaxdream.data.loader import Loader, LoaderSettings
from flaxdream.data.picture_sizes import picture_sizes
from flaxdream.data.tags import TagRules


class Numbered:
    """Pictures of one colour, their number, with captions "k", or "k a", "k b", ... where there are several."""

    name, notes = "numbered", ()

    def __init__(self, count, captions=1, fingerprint="x"):
        self.count, self.each, self.fingerprint = count, captions, fingerprint

    def __len__(self):
        return self.count

    def captions(self, index):
        return tuple(f"{index} {letter}" for letter in "abcdef"[: self.each]) if self.each > 1 else (str(index),)

    def path(self, index):
        return Path(f"{index}.png")

    def size(self, index):
        return (8, 8)

    def stored(self, index):
        stream = io.BytesIO()
        Image.fromarray(np.full((*self.size(index), 3), index % 256, np.uint8)).save(stream, "PNG")
        return self.path(index), stream.getvalue()

    def read(self, index):
        return read_picture(*self.stored(index))


def shown(rows, first, count):
    """The rows from place `first` of the endless run on, whatever batch they are in."""
    steps = range(first // rows.batch_rows, (first + count - 1) // rows.batch_rows + 1)
    return [row for step in steps for row in rows.rows(step)][first % rows.batch_rows :][:count]


SIZES = {"count": st.integers(1, 12), "batch_size": st.integers(1, 9), "seed": st.integers(0, 2**32)}


@settings(max_examples=40, deadline=None)
@given(**SIZES, repeats=st.integers(1, 3), epoch=st.integers(0, 4))
def test_an_epoch_shows_each_picture_exactly_repeats_times(count, batch_size, seed, repeats, epoch):
    rows = CaptionedRows(Numbered(count), batch_size, seed, repeats=repeats)
    run = shown(rows, epoch * rows.epoch_length, rows.epoch_length)
    assert rows.epoch_length == count * repeats
    assert Counter(row.index for row in run) == dict.fromkeys(range(count), repeats)
    assert all(row.caption == str(row.index) for row in run)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 20), share=st.integers(1, 4), hosts=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_the_hosts_together_read_each_picture_once_an_epoch(count, share, hosts, seed):
    rows = CaptionedRows(Numbered(count), share * hosts, seed)
    loaders = [
        Loader(rows, LoaderSettings((8, 8), float_pixels=False), process_index=host, process_count=hosts)
        for host in range(hosts)
    ]
    run = [number for step in range(count) for loader in loaders for number in loader.batch(step)["pixels"][:, 0, 0, 0]]
    assert Counter(run) == dict.fromkeys(range(count), share * hosts)  # `count` steps are so many whole epochs


def test_each_epoch_and_each_seed_has_its_own_order():
    rows = CaptionedRows(Numbered(20), 20, 0)
    orders = [tuple(row.index for row in rows.rows(epoch)) for epoch in range(3)]
    orders.append(tuple(row.index for row in CaptionedRows(Numbered(20), 20, 1).rows(0)))
    assert len(set(orders)) == 4


@pytest.mark.parametrize("tags", [TagRules(), TagRules(shuffle=True)])
def test_a_step_is_the_same_whenever_and_by_whomever_it_is_asked_for(tags):
    rows, again = (CaptionedRows(Numbered(5, 3), 3, 4, proportion_empty_prompts=0.2, tags=tags) for _ in range(2))
    unbroken = [rows.rows(step) for step in range(30)]
    assert [again.rows(step) for step in reversed(range(30))] == unbroken[::-1]
    assert [again.rows(step, [2, 0]) for step in range(30)] == [[batch[2], batch[0]] for batch in unbroken]


def test_one_of_several_captions_is_drawn_each_time_and_all_come_equally_often():
    rows = CaptionedRows(Numbered(2, 3), 2, 0)
    assert rows.captions_are_fixed and rows.captions == ("0 a", "0 b", "0 c", "1 a", "1 b", "1 c")
    drawn = [row for step in range(1500) for row in rows.rows(step)]
    assert all(rows.captions[row.caption_index] == row.caption and row.caption[0] == str(row.index) for row in drawn)
    counts = Counter(row.caption for row in drawn)
    assert set(counts) == set(rows.captions) and all(430 < count < 570 for count in counts.values())


def test_prompts_are_empty_as_often_as_asked_for():
    rows = CaptionedRows(Numbered(3), 3, 0, proportion_empty_prompts=0.1)
    assert rows.captions == ("", "0", "1", "2")
    drawn = [row for step in range(1000) for row in rows.rows(step)]
    assert 240 < sum(row.caption == "" for row in drawn) < 360
    assert all(rows.captions[row.caption_index] == row.caption for row in drawn)
    assert {row.caption for row in CaptionedRows(Numbered(3), 3, 0, proportion_empty_prompts=1.0).rows(0)} == {""}


@pytest.mark.parametrize(
    ("options", "captions"),
    [({"tags": TagRules(shuffle=True)}, None), ({"tags": TagRules(dropout=0.5)}, None), ({"table_of_at_most": 4}, 1)],
)
def test_captions_that_are_no_fixed_table_are_in_the_rows_alone(options, captions):
    rows = CaptionedRows(Numbered(5), 2, 0, **options)
    assert not rows.captions_are_fixed and rows.captions == ()
    batch = Loader(rows, LoaderSettings((8, 8))).batch(0)
    assert batch["caption_index"].tolist() == [-1, -1]
    assert batch["caption"].tolist() == [row.caption for row in rows.rows(0)]
    if captions:
        assert batch["caption"].tolist() == [str(row.index) for row in rows.rows(0)]


def test_shuffled_tags_differ_from_row_to_row():
    class Tagged(Numbered):
        def captions(self, index):
            return ("sks, " + ", ".join("abcdefgh"),)

    rows = CaptionedRows(Tagged(1), 8, 0, tags=TagRules(shuffle=True, keep=1))
    drawn = [row.caption for row in rows.rows(0)]
    assert len(set(drawn)) == 8 and all(caption.startswith("sks, ") for caption in drawn)


def test_fewer_samples_are_a_choice_by_the_seed():
    chosen = []
    for seed in range(3):
        rows = CaptionedRows(Numbered(100), 10, seed, max_train_samples=10)
        assert len(rows) == 10 and rows.steps_per_epoch == 1
        assert sorted(row.index for row in rows.rows(0)) == list(range(10))
        chosen.append(tuple(sorted(row.caption for row in rows.rows(0))))
        assert set(rows.captions) == set(chosen[-1])
        assert all(rows.pictures.path(row.index).stem == row.caption for row in rows.rows(0))
    assert len(set(chosen)) == 3
    assert len(CaptionedRows(Numbered(5), 2, 0, max_train_samples=9)) == 5


@pytest.mark.parametrize(("count", "batch_size", "repeats", "steps"), [(5, 2, 1, 3), (5, 5, 2, 2), (1, 8, 1, 1)])
def test_epochs_stand_for_as_many_steps_as_in_diffusers(count, batch_size, repeats, steps):
    assert CaptionedRows(Numbered(count), batch_size, 0, repeats=repeats).steps_per_epoch == steps


def test_the_fingerprint_follows_pictures_samples_and_repeats():
    prints = {
        CaptionedRows(Numbered(9, fingerprint=name), 2, 0, **options).fingerprint
        for name, options in [("x", {}), ("y", {}), ("x", {"repeats": 2}), ("x", {"max_train_samples": 3})]
    }
    assert len(prints) == 4
    assert CaptionedRows(Numbered(9), 2, 0).fingerprint == CaptionedRows(Numbered(9), 5, 7).fingerprint


@pytest.mark.parametrize(
    ("count", "batch_size", "options", "message"),
    [
        (3, 0, {}, "batch size 0"),
        (3, 1, {"repeats": 0}, "repeats 0"),
        (0, 1, {}, "numbered: there is no picture with a caption"),
        (3, 1, {"proportion_empty_prompts": 1.5}, "--proportion_empty_prompts 1.5"),
        (3, 1, {"max_train_samples": 0}, "--max_train_samples 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(count, batch_size, options, message):
    with pytest.raises(ValueError, match=message):
        CaptionedRows(Numbered(count), batch_size, 0, **options)


class Sized(Numbered):
    """Pictures of several shapes: every third is wide, every third is tall; number 7 cannot be read."""

    def size(self, index):
        if index == 7:
            raise BrokenPicture(self.path(index), "damaged")
        return [(16, 16), (16, 24), (24, 16)][index % 3]


@pytest.fixture
def planned():
    pictures = Sized(20)
    return pictures, plan_buckets(picture_sizes(pictures).sizes, bucket_table("novelai", 16, 8))


def test_batches_of_buckets_are_cut_to_the_size_of_their_bucket(planned):
    pictures, plan = planned
    rows = CaptionedRows(pictures, 4, 0, buckets=plan)
    loader = Loader(rows, LoaderSettings((16, 16), float_pixels=False, random_flip=True))
    shapes, seen = set(), Counter()
    for batch in loader.batches(0, rows.steps_per_epoch):
        shapes.add(batch["pixels"].shape)
        there = batch["weight"] == 1
        assert {rows.resolution(index) for index in batch["index"]} == {batch["pixels"].shape[1:3]}
        seen.update(batch["pixels"][there][:, 0, 0, 0].tolist())
    assert shapes == {(4, 16, 16, 3), (4, 16, 24, 3), (4, 24, 16, 3)}
    assert seen == dict.fromkeys([number for number in range(20) if number != 7], 1)
    assert len(rows) == 19 and rows.epoch_length == 19
    assert loader.picture(1).pixels.shape == (16, 24, 3)
    assert not Loader(rows, LoaderSettings((16, 16))).augments


def test_the_fingerprint_follows_the_buckets_and_a_plan_for_others_is_refused(planned):
    pictures, plan = planned
    assert CaptionedRows(pictures, 4, 0, buckets=plan).fingerprint != CaptionedRows(pictures, 4, 0).fingerprint
    with pytest.raises(ValueError, match="planned for 20 pictures; there are 5"):
        CaptionedRows(pictures, 4, 0, buckets=plan, max_train_samples=5)


def test_a_held_out_pass_goes_bucket_by_bucket(planned):
    pictures, plan = planned
    rows = HeldOutRows(pictures, 4, plan)
    seen = Counter()
    for step in range(rows.steps_per_epoch):
        batch = rows.rows(step)
        assert len({rows.resolution(row.index) for row in batch}) == 1
        seen.update(row.caption for row in batch if row.weight)
    assert seen == {str(number): 1 for number in range(20) if number != 7}
