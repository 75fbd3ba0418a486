"""Packed texts."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxdream.data.text_table import TextTable


@given(entries=st.lists(st.lists(st.text(), max_size=3), max_size=8))
def test_what_goes_in_comes_out(entries):
    table = TextTable(entries)
    assert list(table) == [tuple(entry) for entry in entries] and len(table) == len(entries)


def test_names_that_are_not_unicode_keep_their_bytes():
    name = os.fsdecode(b"caf\xe9.png")
    assert TextTable([[name]])[0] == (name,)


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_is_an_error(index):
    with pytest.raises(IndexError, match=f"entry {index} of 2"):
        TextTable([["a"], ["b"]])[index]


def test_ten_thousand_captions_cost_little_more_than_their_letters():
    tracemalloc.start()
    table = TextTable([f"a photo of thing number {number:06d}"] for number in range(10_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    letters = 10_000 * len(table[0][0])
    assert size < 2 * letters + 64 * 1024
