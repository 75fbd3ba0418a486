"""The contact sheets of a checked set: pictures with problems, and what training cuts away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flaxdream.data.crop_checks import Cuts
from flaxdream.data.examined import Examined
from flaxdream.data.findings import Case, Finding, name_of
from flaxdream.data.images import BrokenPicture, read_small
from flaxdream.data.picture_set import PictureSet
from flaxdream.data.sheet import CELL, TINT, WHITE, Cell, Section, draw_sheet, kept_in_frame, middle

SHOWN = 12  # pictures of a problem
SHOWN_OF_BUCKET = 6
INKS = {"error": "#b3001b", "warning": "#a65e00"}
ON_THE_OTHER_SHEET = ("cropped",)


def problem_sheet(
    pictures: PictureSet, seen: Examined, findings: Sequence[Finding], resolution: int
) -> np.ndarray | None:
    """The pictures of each error and warning, labelled; None if no picture has one."""
    sections = []
    for finding in findings:
        cases = [case for case in finding.cases if case.pictures]
        if finding.level in INKS and finding.kind not in ON_THE_OTHER_SHEET and cases:
            cells = tuple(_problem_cells(pictures, seen, finding, cases, resolution))
            title = f"{finding.level}: {finding.title}{_of(len(cells), sum(len(case.pictures) for case in cases))}"
            sections.append(Section(title, finding.advice, cells, INKS[finding.level]))
    return draw_sheet(f"{pictures.name}: pictures with problems", sections) if sections else None


def _problem_cells(
    pictures: PictureSet, seen: Examined, finding: Finding, cases: Sequence[Case], resolution: int
) -> Iterator[Cell]:
    """One for each picture; groups stand on papers of two colours in turn."""
    left = SHOWN
    for number, case in enumerate(cases):
        paper = TINT if number % 2 == 0 and any(len(case.pictures) > 1 for case in cases) else WHITE
        for index, name in zip(case.pictures[:left], case.names):
            left -= 1
            lines = tuple(line for line in (name, case.detail) if line)
            is_blurred = finding.kind == "blurred"
            picture = None if index in seen.broken else _small(pictures, index, resolution if is_blurred else CELL)
            if picture is not None and is_blurred:
                picture, lines = middle(picture), (*lines, "its middle, at full size")
            yield Cell(picture, lines, paper)
        if left <= 0:
            return


def crop_sheet(pictures: PictureSet, cuts: Cuts) -> np.ndarray | None:
    """For each size of training some of its pictures, those that lose most first; None if there are none."""
    sections = []
    targets, number = np.unique(cuts.targets[cuts.trained], axis=0, return_inverse=True)
    for place in np.argsort(targets[:, 1] / targets[:, 0], kind="stable").tolist():
        inside = cuts.trained[number.ravel() == place]
        worst = inside[np.argsort(-cuts.cropped[inside], kind="stable")]
        shown = worst[: SHOWN_OF_BUCKET if len(targets) > 1 else 4 * SHOWN_OF_BUCKET]
        cells = tuple(_crop_cell(pictures, cuts, int(index)) for index in shown)
        height, width = targets[place].tolist()
        lost = cuts.cropped[inside]
        subtitle = f"{lost.mean():.1%} of a picture is cut away on average, {lost.max():.1%} at most"
        title = f"{width} x {height}: {len(inside):,} picture{'' if len(inside) == 1 else 's'}"
        sections.append(Section(title + _of(len(cells), len(inside)), subtitle, cells))
    title = f"{pictures.name}: what is kept (in the frame, from the middle) and what is cut away (faded)"
    return draw_sheet(title, sections) if sections else None


def _crop_cell(pictures: PictureSet, cuts: Cuts, index: int) -> Cell:
    picture = _small(pictures, index, CELL)
    if picture is None:
        return Cell(None, (name_of(pictures, index),))
    height, width = picture.shape[:2]
    goal_height, goal_width = cuts.targets[index]
    scale = max(goal_height / height, goal_width / width)
    kept = goal_height / scale / height, goal_width / scale / width
    box = ((1 - kept[0]) / 2, (1 - kept[1]) / 2, (1 + kept[0]) / 2, (1 + kept[1]) / 2)
    enlarged = f", enlarged {cuts.scales[index]:.1f} times" if cuts.scales[index] > 1 else ""
    lost = f"{cuts.cropped[index]:.0%} cut away" if cuts.cropped[index] >= 0.005 else "kept as a whole"
    return Cell(kept_in_frame(picture, box), (name_of(pictures, index), f"{lost}{enlarged}"))


def _small(pictures: PictureSet, index: int, shorter: int) -> np.ndarray | None:
    """The picture made smaller; None if it can be read no longer."""
    try:
        path, data = pictures.stored(index)
        return read_small(path, shorter, data)[0]
    except BrokenPicture:
        return None


def _of(shown: int, there: int) -> str:
    return f" ({shown} of them shown)" if shown < there else ""
