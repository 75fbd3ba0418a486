"""Findings and the names of pictures in them."""

from __future__ import annotations

from pathlib import Path

from flaxdream.data.findings import Case, cases_of, counted, group_case, name_of


class Named:
    """As much of a set as names need."""

    def __init__(self, name, paths):
        self.name, self.paths = name, paths

    def path(self, index):
        return Path(self.paths[index])


def test_pictures_are_named_by_their_place_in_the_set():
    folder = Named("/data/dogs", ["/data/dogs/a.png", "/data/dogs/deep/b.png"])
    assert [name_of(folder, index) for index in range(2)] == ["a.png", "deep/b.png"]
    assert name_of(Named("lambda/dogs", ["lambda/dogs/row 7"]), 0) == "row 7"
    assert name_of(Named("data/{0..1}.tar", ["data/0.tar/a.png"]), 0) == "data/0.tar/a.png"


def test_cases_hold_names_details_and_indices():
    folder = Named("/d", ["/d/a", "/d/b", "/d/c"])
    assert cases_of(folder, [2, 0], ["x", ""]) == (Case(("c",), "x", (2,)), Case(("a",), "", (0,)))
    assert group_case(folder, [0, 2]) == Case(("a", "c"), "", (0, 2))


def test_counts_agree_with_their_noun():
    assert [counted(n, "picture") for n in (0, 1, 2, 1234)] == [
        "0 pictures", "1 picture", "2 pictures", "1,234 pictures",
    ]  # fmt: skip
