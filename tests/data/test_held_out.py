"""The pass over a held-out set."""

from __future__ import annotations

from collections import Counter

import pytest

from flaxdream.data.held_out import HeldOutRows
from tests.data.test_captioned import Numbered


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 8])
def test_a_pass_weighs_every_picture_once_at_any_batch_size(batch_size):
    rows = HeldOutRows(Numbered(5, captions=2), batch_size)
    run = [row for step in range(rows.steps_per_epoch) for row in rows.rows(step)]
    assert len(run) == rows.steps_per_epoch * batch_size
    assert Counter(row.index for row in run if row.weight) == dict.fromkeys(range(5), 1)
    assert {row.weight for row in run} <= {0.0, 1.0}
    assert all(row.caption == f"{row.index} a" == rows.captions[row.caption_index] for row in run)
    assert {(row.crop_draw, row.flip_draw < 0.5) for row in run} == {((0.5, 0.5), False)}
    assert rows.rows(0, [0]) == [run[0]]


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="0 pictures; expected 1 or more"):
        HeldOutRows(Numbered(0), 2)
