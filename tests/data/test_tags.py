"""Tags shuffled and thinned."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxdream.data.tags import TagRules, drawn_tags, tag_count

TAGS = st.lists(st.text("abcdef ", min_size=1, max_size=5).map(str.strip).filter(bool), max_size=6)


def words(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, 2 * count, np.uint64, endpoint=False)


@given(tags=TAGS, keep=st.integers(0, 7), seed=st.integers(0, 99))
def test_a_shuffle_keeps_every_tag_and_the_first_ones_in_place(tags, keep, seed):
    rules = TagRules(shuffle=True, keep=keep)
    caption = ", ".join(tags)
    drawn = drawn_tags(caption, rules, words(tag_count(caption, rules), seed))
    got = drawn.split(", ") if drawn else []
    assert Counter(got) == Counter(tags) and got[:keep] == tags[:keep]


def test_every_order_comes_about_equally_often():
    rules = TagRules(shuffle=True)
    orders = Counter(drawn_tags("a, b, c", rules, words(3, seed)) for seed in range(3000))
    assert len(orders) == 6 and min(orders.values()) > 400 and max(orders.values()) < 600


def test_tags_are_dropped_as_often_as_asked_for_but_never_the_kept_ones():
    rules = TagRules(keep=1, dropout=0.3)
    drawn = [drawn_tags("sks,b,c,d", rules, words(4, seed)).split(", ") for seed in range(2000)]
    assert all(tags[0] == "sks" for tags in drawn)
    assert all(tags[1:] == sorted(tags[1:]) for tags in drawn)
    left = Counter(tag for tags in drawn for tag in tags[1:])
    assert all(0.66 < left[tag] / 2000 < 0.74 for tag in "bcd")
    assert drawn_tags("a, b", TagRules(dropout=1.0), words(2)) == ""


def test_another_separator_and_empty_tags():
    rules = TagRules(keep=2, separator=";", shuffle=True)
    assert drawn_tags(" a, b ;; c ;", rules, words(tag_count(" a, b ;; c ;", rules))) == "a, b; c"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep": -1}, "keep_tokens -1"),
        ({"dropout": 1.5}, "tag dropout 1.5"),
        ({"separator": " "}, "tag separator ' '"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        TagRules(**rules)
