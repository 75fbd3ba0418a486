"""The two contact sheets of a checked set."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flaxdream.data import doctor_sheets
from flaxdream.data.crop_checks import square_cuts
from flaxdream.data.doctor_sheets import crop_sheet, problem_sheet
from flaxdream.data.examined import examine
from flaxdream.data.findings import Case, Finding
from flaxdream.data.prompted_folder import PromptedFolder

COLORS = {"a": (255, 0, 0), "b": (0, 200, 0), "c": (0, 0, 255)}


@pytest.fixture
def pictures(tmp_path):
    for name, color in COLORS.items():
        Image.new("RGB", (60, 30), color).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_text("broken")
    return PromptedFolder(tmp_path, "a dog")


@pytest.fixture
def drawn(monkeypatch):
    """The sections of each sheet, as they are handed to be drawn."""
    sheets = []
    monkeypatch.setattr(doctor_sheets, "draw_sheet", lambda title, sections: sheets.append(sections) or np.zeros(1))
    return sheets


def shows(cell):
    """The name of the picture in the cell's middle."""
    middle = cell.pixels[cell.pixels.shape[0] // 2, cell.pixels.shape[1] // 2]
    return next(name for name, color in COLORS.items() if tuple(middle) == color)


def test_pictures_of_errors_and_warnings_are_shown_with_what_is_said_of_them(pictures, drawn):
    findings = [
        Finding("broken", "error", "1 picture that cannot be read", "Replace it.", (Case(("d.png",), "why", (3,)),)),
        Finding("copies", "warning", "groups", "", (Case(("a.png", "c.png"), "", (0, 2)), Case(("b.png",), "", (1,)))),
        Finding("left_out", "error", "1 empty file", "", (Case(("e.png",)),)),
        Finding("cropped", "warning", "on the other sheet", "", (Case(("a.png",), "", (0,)),)),
        Finding("turned", "note", "a note", "", (Case(("a.png",), "", (0,)),)),
    ]
    assert problem_sheet(pictures, examine(pictures, 64), findings, 64) is not None
    broken, groups = drawn[0]
    assert broken.title == "error: 1 picture that cannot be read" and broken.subtitle == "Replace it."
    assert [(cell.pixels, cell.lines) for cell in broken.cells] == [(None, ("d.png", "why"))]
    assert [(shows(cell), cell.lines) for cell in groups.cells] == [
        ("a", ("a.png",)),
        ("c", ("c.png",)),
        ("b", ("b.png",)),
    ]
    assert groups.cells[0].paper == groups.cells[1].paper != groups.cells[2].paper


def test_of_many_pictures_some_are_shown(pictures, drawn):
    finding = Finding("small", "warning", "20 pictures", "", tuple(Case(("a.png",), "", (0,)) for _ in range(20)))
    problem_sheet(pictures, examine(pictures, 64), [finding], 64)
    (section,) = drawn[0]
    assert len(section.cells) == 12 and section.title == "warning: 20 pictures (12 of them shown)"


def test_a_set_without_problems_has_no_sheet(pictures):
    note = Finding("turned", "note", "a note", "", (Case(("a.png",), "", (0,)),))
    assert problem_sheet(pictures, examine(pictures, 64), [note], 64) is None


def test_the_crop_sheet_has_a_section_for_each_size_and_frames_what_is_kept(pictures, drawn):
    crop_sheet(pictures, square_cuts(examine(pictures, 64).sizes, 64))
    (section,) = drawn[0]
    assert section.title == "64 x 64: 3 pictures"
    assert section.subtitle == "50.0% of a picture is cut away on average, 50.0% at most"
    cell = section.cells[0]
    assert cell.lines == ("a.png", "50% cut away, enlarged 2.1 times") and cell.pixels.shape == (90, 180, 3)
    kept = (cell.pixels == COLORS["a"]).all(axis=-1).any(axis=0)
    assert np.flatnonzero(kept)[[0, -1]].tolist() == [47, 132]  # inside of the frame of 2 pixels


def test_a_picture_that_went_away_leaves_an_empty_cell(pictures, drawn):
    seen = examine(pictures, 64)
    pictures.path(0).unlink()
    crop_sheet(pictures, square_cuts(seen.sizes, 64))
    assert [cell.pixels is None for cell in drawn[0][0].cells] == [True, False, False]


def test_the_sheets_are_pictures(pictures):
    seen = examine(pictures, 64)
    broken = Finding("broken", "error", "1 picture", "", (Case(("d.png",), "", (3,)),))
    for sheet in (crop_sheet(pictures, square_cuts(seen.sizes, 64)), problem_sheet(pictures, seen, [broken], 64)):
        assert sheet.ndim == 3 and sheet.dtype == np.uint8 and sheet.shape[1] > 1000
