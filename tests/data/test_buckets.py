"""Bucket tables and plans."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdream.data.buckets import Limits, area_buckets, assigned, bucket_for, bucket_table, plan_buckets, plan_text
from flaxdream.data.images import resize_to_cover, resized_size

# Width and height, as printed in NovelAI's description of their buckets (2022).
NOVELAI = [
    (256, 1024), (320, 1024), (384, 1024), (384, 960), (384, 896), (448, 832), (512, 768), (512, 704), (512, 512),
    (576, 640), (640, 576), (704, 512), (768, 512), (832, 448), (896, 384), (960, 384), (1024, 384), (1024, 320),
    (1024, 256),
]  # fmt: skip
# Narrower half of the SDXL list; the other half is the same turned.
SDXL = [
    (512, 2048), (512, 1984), (512, 1920), (512, 1856), (576, 1792), (576, 1728), (576, 1664), (640, 1600), (640, 1536),
    (704, 1472), (704, 1408), (704, 1344), (768, 1344), (768, 1280), (832, 1216), (832, 1152), (896, 1152), (896, 1088),
    (960, 1088), (960, 1024),
]  # fmt: skip


def turned(sizes):
    return {(b, a) for a, b in sizes}


def test_novelais_table_is_exactly_theirs():
    assert turned(bucket_table("novelai", 512)) == set(NOVELAI)
    assert len(bucket_table("novelai", 512)) == 19


def test_sdxls_table_is_exactly_theirs():
    assert set(bucket_table("sdxl", 1024)) == set(SDXL) | turned(SDXL) | {(1024, 1024)}
    assert len(bucket_table("sdxl", 1024)) == 41


@settings(max_examples=60, deadline=None)
@given(table=st.sampled_from(["novelai", "sdxl"]), units=st.integers(2, 20), divisor=st.sampled_from([8, 16, 32, 64]))
def test_tables_of_any_resolution_keep_to_their_limits(table, units, divisor):
    side = units * divisor
    sizes = bucket_table(table, side, divisor)
    most = side * side * (1.5 if table == "novelai" else 1)
    ratios = [width / height for height, width in sizes]
    assert 1.0 in ratios and set(sizes) == turned(sizes) and ratios == sorted(set(ratios))
    assert all(h % divisor == w % divisor == 0 and side / 2 <= min(h, w) and h * w <= most for h, w in sizes)
    assert all(max(size) <= 2 * side for size in sizes)


def test_of_two_sizes_with_one_ratio_the_larger_stays():
    assert area_buckets(512 * 512, 496, 512, 16) == ((512, 496), (512, 512), (496, 512))


@pytest.mark.parametrize(
    ("table", "resolution", "message"),
    [
        ("kohya", 512, "bucket table 'kohya' is not one of novelai, sdxl"),
        ("sdxl", 500, "--resolution 500 does not divide by 64"),
    ],
)
def test_tables_that_there_are_not_are_refused(table, resolution, message):
    with pytest.raises(ValueError, match=message):
        bucket_table(table, resolution)


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_a_picture_goes_where_the_logarithm_of_the_ratio_is_nearest(height, width):
    table = bucket_table("novelai", 512)
    h, w = bucket_for((height, width), table)
    ratio = math.log(width / height)
    nearest = min(abs(ratio - math.log(b / a)) for a, b in table)
    assert abs(ratio - math.log(w / h)) <= nearest + 1e-12


def test_turned_pictures_go_to_turned_buckets():
    table = bucket_table("sdxl", 1024)
    sizes = np.random.default_rng(0).integers(100, 4000, (500, 2))
    there, back = np.array(table)[assigned(sizes, table)], np.array(table)[assigned(sizes[:, ::-1], table)]
    np.testing.assert_array_equal(there, back[:, ::-1])


def test_unsorted_buckets_are_refused():
    with pytest.raises(ValueError, match="sorted by width to height"):
        assigned(np.array([[1, 1]]), [(64, 128), (128, 64)])


SIZES = np.array([[512, 768], [1024, 1536], [512, 512], [256, 256], [500, 600], [1024, 200], [0, 0]])


def test_a_plan_says_what_becomes_of_each_picture():
    plan = plan_buckets(SIZES, bucket_table("novelai", 512))
    assert [plan.size(index) for index in range(7)] == [
        (512, 768), (512, 768), (512, 512), (512, 512), (576, 640), (1024, 256), None,
    ]  # fmt: skip
    assert plan.kept.tolist() == [0, 1, 2, 3, 4, 5] and plan.left_out["that cannot be read"].tolist() == [6]
    uses = {use.size: use for use in plan.buckets}
    assert uses[512, 768].pictures == 2 and uses[512, 768].upscaled == 0 and uses[512, 768].cropped_most == 0
    assert uses[512, 512].upscaled == 1 and uses[512, 512].largest_scale == 2
    tall = uses[1024, 256]
    assert tall.largest_scale == 1.28 and tall.cropped_most == pytest.approx(1 - 1024 / (1024 * 1.28))
    assert sorted(map(tuple, plan.groups())) == sorted([(5,), (4,), (2, 3), (0, 1)])
    assert sum(map(len, plan.groups())) == 6


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(64, 300), st.integers(64, 300)), min_size=1, max_size=8))
def test_the_plan_foretells_what_the_crop_does(sizes):
    plan = plan_buckets(np.array(sizes), bucket_table("novelai", 128, 16))
    assert sum(use.pictures for use in plan.buckets) == len(sizes)
    for index, (height, width) in enumerate(sizes):
        target = plan.size(index)
        covered = resize_to_cover(np.zeros((height, width, 3), np.uint8), target).shape[:2]
        assert covered == resized_size((height, width), target)
        use = plan.buckets[plan.bucket_of[index]]
        cropped = 1 - target[0] * target[1] / (covered[0] * covered[1])
        assert cropped <= use.cropped_most + 1e-9  # Pillow's sizes are rounded down
        assert covered[0] <= height * use.largest_scale + 1 and covered[1] <= width * use.largest_scale + 1


def test_limits_leave_out_what_would_lose_or_be_enlarged_too_much():
    plan = plan_buckets(SIZES, bucket_table("novelai", 512), Limits(most_cropped=0.1, most_upscaled=1.5))
    assert plan.kept.tolist() == [0, 1, 2, 4]
    assert {reason: indices.tolist() for reason, indices in plan.left_out.items()} == {
        "that cannot be read": [6],
        "that would lose more than 10% of their area": [5],
        "that would be enlarged more than 1.5 times": [3],
    }
    kept = plan.without_left_out()
    assert [kept.size(index) for index in range(4)] == [plan.size(index) for index in plan.kept] and not kept.left_out


def test_a_bucket_with_too_few_pictures_gives_them_to_the_next_best():
    sizes = np.array([[512, 512]] * 5 + [[512, 768]] * 4 + [[512, 704]])
    plan = plan_buckets(sizes, bucket_table("novelai", 512), Limits(fewest_pictures=2))
    assert [(use.size, use.pictures) for use in plan.buckets] == [((512, 512), 5), ((512, 768), 5)]
    everything = plan_buckets(sizes, bucket_table("novelai", 512), Limits(fewest_pictures=99))
    assert [use.pictures for use in everything.buckets] == [10]


def test_a_plan_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="none of 2 pictures can be read"):
        plan_buckets(np.zeros((2, 2), int), bucket_table("novelai", 512))


def test_the_table_names_buckets_crops_and_empty_rows():
    text = plan_text(plan_buckets(SIZES, bucket_table("novelai", 512)), batch_size=4)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "width x height pictures cropped at most upscaled batches empty rows"
    assert lines[1] == "256 x 1024 1 21.9% 21.9% 1 1 3"
    assert lines[-1] == "all 6 4.9% 21.9% 3 4 10"


def test_the_fingerprint_follows_sizes_and_pictures():
    first = plan_buckets(SIZES, bucket_table("novelai", 512))
    assert first.fingerprint == plan_buckets(SIZES, bucket_table("novelai", 512)).fingerprint
    others = [plan_buckets(SIZES[::-1], bucket_table("novelai", 512)), plan_buckets(SIZES, bucket_table("sdxl", 512))]
    assert len({first.fingerprint, *(plan.fingerprint for plan in others)}) == 3
