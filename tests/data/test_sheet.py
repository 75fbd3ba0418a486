"""Contact sheets as pixels."""

from __future__ import annotations

import numpy as np

from flaxdream.data.sheet import (
    CELL,
    COLUMNS,
    EMPTY,
    FADED,
    FRAME,
    LINE,
    TINT,
    WIDTH,
    Cell,
    Section,
    draw_sheet,
    kept_in_frame,
    middle,
)

RED, GREEN = (255, 0, 0), (0, 255, 0)


def plain(height, width, color):
    return np.full((height, width, 3), color, np.uint8)


def count(sheet, color):
    return int((sheet == np.array(color, np.uint8)).all(axis=-1).sum())


def rgb(color):
    return tuple(bytes.fromhex(color[1:]))


def test_every_picture_is_on_the_sheet_at_its_own_shape():
    cells = (Cell(plain(40, 20, RED), ("a",)), Cell(plain(400, 800, GREEN), ("b", "wide")), Cell(None, ("broken",)))
    sheet = draw_sheet("title", [Section("three", "why", cells)])
    assert sheet.shape[1:] == (WIDTH, 3) and sheet.dtype == np.uint8
    assert count(sheet, RED) == CELL * CELL // 2 == count(sheet, GREEN)
    assert CELL * CELL <= count(sheet, rgb(EMPTY)) < CELL * CELL + 100  # a letter may have a pixel of that grey


def test_a_row_is_as_high_as_its_highest_picture_and_longest_text():
    def height(*cells):
        return draw_sheet("t", [Section("s", "", cells)]).shape[0]

    low, high = Cell(plain(10, 20, RED), ("a",)), Cell(plain(20, 10, RED), ("a",))
    told = Cell(plain(10, 20, RED), ("a", "a reason that does not fit below its picture"))
    assert height(low) + CELL // 2 == height(low, high) == height(high)
    assert height(told) == height(low, told) == height(low) + 2 * LINE


def test_a_section_has_as_many_rows_as_it_needs():
    def height(cells):
        return draw_sheet("t", [Section("s", "", tuple(Cell(plain(9, 9, RED), ("x",)) for _ in range(cells)))]).shape[0]

    assert height(1) == height(COLUMNS) < height(COLUMNS + 1) == height(2 * COLUMNS)
    assert height(COLUMNS + 1) - height(1) > CELL


def test_papers_of_neighbours_touch():
    cells = tuple(Cell(plain(9, 9, RED), ("x",), TINT) for _ in range(3))
    sheet = draw_sheet("t", [Section("s", "", cells)])
    rows, columns = np.nonzero((sheet == np.array(rgb(TINT), np.uint8)).all(axis=-1))
    top_row = sheet[rows.min()]
    assert (top_row[columns.min() : columns.max() + 1] == rgb(TINT)).all()


def test_the_kept_part_is_framed_and_the_rest_fades():
    shown = kept_in_frame(plain(90, 180, RED), (0, 0.25, 1, 0.75))
    assert shown.shape == (CELL // 2, CELL, 3)
    assert tuple(shown[45, 90]) == RED and tuple(shown[45, 45]) == rgb(FRAME) == tuple(shown[0, 90])
    assert tuple(shown[45, 20]) == tuple(shown[45, 160]) == (255, round(255 * FADED), round(255 * FADED))
    whole = kept_in_frame(plain(90, 180, RED), (0, 0, 1, 1))
    assert count(whole, RED) == (CELL // 2 - 4) * (CELL - 4)


def test_the_middle_keeps_pixels_as_they_are():
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert np.array_equal(middle(picture), picture[60:240, 110:290])
    assert np.array_equal(middle(picture[:50, :60]), picture[:50, :60])
