"""What training cuts away."""

from __future__ import annotations

import numpy as np
import pytest

from flaxdream.data.buckets import Limits, bucket_table, plan_buckets
from flaxdream.data.crop_checks import bucket_cuts, square_cuts
from flaxdream.data.images import resize_to_cover, resized_size

SIZES = np.array([[600, 600], [512, 1024], [300, 200], [0, 0], [2000, 1000], [512, 700]], np.int32)


def test_squares_lose_what_the_longer_side_has_more():
    cuts = square_cuts(SIZES, 512)
    assert cuts.cropped == pytest.approx([0, 0.5, 1 / 3, 0, 0.5, 1 - 512 / 700])
    assert cuts.scales == pytest.approx([512 / 600, 1, 2.56, 0, 0.512, 1])
    assert cuts.trained.tolist() == [0, 1, 2, 4, 5]
    assert cuts.mean_cropped == pytest.approx(cuts.cropped[cuts.trained].mean())


def test_the_shares_are_those_of_the_cut_that_training_makes():
    cuts = square_cuts(SIZES, 64)
    for (height, width), lost in zip(SIZES[cuts.trained], cuts.cropped[cuts.trained]):
        resized = resized_size((height, width), (64, 64))
        assert resize_to_cover(np.zeros((height, width, 3), np.uint8), (64, 64)).shape[:2] == resized
        assert 1 - 64 * 64 / (resized[0] * resized[1]) == pytest.approx(lost, abs=0.02)


def test_buckets_agree_with_their_plan():
    plan = plan_buckets(SIZES, bucket_table("novelai", 512))
    cuts = bucket_cuts(SIZES, plan)
    assert cuts.targets[3].tolist() == [0, 0]
    for number, use in enumerate(plan.buckets):
        inside = plan.bucket_of == number
        assert (cuts.targets[inside] == use.size).all()
        assert cuts.cropped[inside].mean() == pytest.approx(use.cropped_mean)
        assert cuts.scales[inside].max() == pytest.approx(use.largest_scale)


def test_what_the_plan_leaves_out_is_not_trained_on():
    plan = plan_buckets(SIZES, bucket_table("novelai", 512), Limits(most_upscaled=1.5))
    cuts = bucket_cuts(SIZES, plan)
    assert cuts.trained.tolist() == [0, 1, 4, 5] and cuts.scales[2] == 0


def test_a_set_that_cannot_be_read_has_no_cuts():
    cuts = square_cuts(np.zeros((2, 2), np.int32), 512)
    assert not len(cuts.trained) and cuts.mean_cropped == 0 and not cuts.cropped.any()
