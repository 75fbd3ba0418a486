"""Random numbers with an address."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flaxdream.data.draws import Purpose, permutation, uniforms, words


def test_the_numbers_of_an_address_are_frozen():
    # A change here changes every user's crops and order, and breaks the resume of runs that are under way.
    assert words(0, Purpose.CROP_AND_FLIP, (0, 0), 2).tolist() == [213000021201967259, 4455796210202625458]
    assert words(7, Purpose.EPOCH, (3, 5), 2).tolist() == [16536076962540388636, 2196111194775956479]


def test_numbers_of_different_addresses_differ():
    addresses = [
        (seed, purpose, (high, low))
        for seed in (0, 1, 2**60, 2**60 + 1, 2**64 - 1)
        for purpose in Purpose
        for high in (0, 1)
        for low in (0, 1)
    ]
    drawn = np.concatenate([words(*address, 8) for address in addresses])
    assert len(set(drawn.tolist())) == len(drawn)


@given(st.integers(-(2**40), 2**70), st.integers(0, 2**40), st.integers(0, 2**31))
def test_uniforms_lie_in_0_to_1_whatever_the_seed(seed, step, row):
    drawn = uniforms(seed, Purpose.CROP_AND_FLIP, (step, row), 5)
    assert drawn.shape == (5,) and (drawn >= 0).all() and (drawn < 1).all()


def test_global_random_state_has_no_part_in_it():
    np.random.seed(0)
    first = uniforms(0, Purpose.EPOCH, (0, 0), 3)
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(uniforms(0, Purpose.EPOCH, (0, 0), 3), first)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_uniforms_are_uniform_over_rows():
    drawn = np.concatenate(
        [uniforms(0, Purpose.CROP_AND_FLIP, (step, row), 3) for step in range(40) for row in range(25)]
    )
    assert abs(drawn.mean() - 0.5) < 0.02 and abs(drawn.var() - 1 / 12) < 0.005


@given(st.integers(0, 200))
def test_a_permutation_holds_every_number_once(count):
    assert sorted(permutation(0, Purpose.EPOCH, (0, 0), count).tolist()) == list(range(count))
