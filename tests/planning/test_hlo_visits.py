"""Computations that run, and how often."""

from __future__ import annotations

import pytest

from flaxdream.planning.hlo_text import parse
from flaxdream.planning.hlo_visits import trips, visits
from tests.planning.programs_text import LOOP, LOOPS


def test_a_loops_body_runs_as_often_as_its_condition_says():
    found = {visit.computation.name: visit for visit in visits(parse(LOOP))}
    assert (found["main"].times, found["body"].times, found["product"].times) == (1, LOOPS, LOOPS)
    assert (found["body"].inside, found["product"].inside) == (False, True)


def test_the_compilers_own_note_of_a_loops_length_wins():
    note = 'backend_config={"known_trip_count":{"n":"7"}}'
    module = parse(LOOP.replace("body=%body", f"body=%body, {note}"))
    assert trips(module.entry.by_name["loop"], module) == 7


def test_a_text_that_was_cut_off_is_an_error():
    with pytest.raises(ValueError, match="no whole entry computation"):
        parse(LOOP[: LOOP.index("ROOT %end.1")])


def test_an_unrolled_loop_counts_in_larger_steps():
    """Two turns in one: the counter goes up by two, and the compiler notes no trip count."""
    one = "  %one = s32[] constant(1)\n  %next = s32[] add(%i, %one)"
    assert one in LOOP
    two = LOOP.replace(one, one.replace("constant(1)", "constant(2)"))
    three = LOOP.replace(one, one.replace("constant(1)", "constant(3)"))
    counts = []
    for text in (LOOP, two, three):
        module = parse(text)
        counts += [trips(loop, module) for loop in module.entry.instructions if loop.opcode == "while"]
    assert counts == [4, 2, 2]
