"""Parts of a set."""

from __future__ import annotations

import pytest

from flaxdream.data.picture_set import Part, drawn_samples, split_off
from tests.data.test_captioned import Numbered


def keys(pictures):
    return [pictures.path(index).stem for index in range(len(pictures))]


def test_a_part_shows_its_own_pictures_in_its_own_order():
    part = Part(Numbered(10), [7, 2])
    assert keys(part) == ["7", "2"] and part.captions(1) == ("2",)
    assert part.read(0)[0, 0, 0] == 7 and part.size(0) == (8, 8) and part.name == "numbered"
    assert part.fingerprint != Part(Numbered(10), [2, 7]).fingerprint != Numbered(10).fingerprint


def test_all_pictures_are_either_held_out_or_trained_on():
    train, held_out = split_off(Numbered(10), 3, seed=5)
    assert len(held_out) == 3 and sorted(keys(train) + keys(held_out)) == sorted(map(str, range(10)))
    assert keys(held_out) != keys(split_off(Numbered(10), 3, seed=6)[1])
    assert keys(held_out) == keys(split_off(Numbered(10), 3, seed=5)[1])


@pytest.mark.parametrize("count", [0, 10])
def test_neither_none_nor_all_can_be_held_out(count):
    with pytest.raises(ValueError, match=f"numbered: {count} of 10 pictures cannot be held out; expected 1 to 9"):
        split_off(Numbered(10), count, 0)


def test_samples_are_those_of_the_seed_and_all_where_more_are_asked_for():
    assert keys(drawn_samples(Numbered(50), 5, 1)) != keys(drawn_samples(Numbered(50), 5, 2))
    whole = Numbered(5)
    assert drawn_samples(whole, 5, 0) is whole and drawn_samples(whole, None, 0) is whole
