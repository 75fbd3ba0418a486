"""Contact sheets: pictures in rows under headings, as pixels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.images import lettered, scaled

if TYPE_CHECKING:
    from jaxtyping import UInt8

CELL, GAP, COLUMNS = 180, 12, 6  # pixels; cells of a row
WIDTH = COLUMNS * (CELL + GAP) + GAP
LABEL, HEADING, TITLE = 12, 17, 22  # letters, in pixels
LINE = round(LABEL * 1.4)
WHITE, TINT, EMPTY, FRAME = "#ffffff", "#dce8f5", "#d0d0d0", "#ff7a00"
INK, FAINT = "#202020", "#6a6a6a"
LETTERS, LETTERS_OF_STRIP, LINES = 29, 165, 3  # that fit below a picture and below a heading; lines of one text
FADED = 0.7  # how far what is cut away fades to white


@dataclass(frozen=True)
class Cell:
    """A picture with lines of text below it; None is a picture that cannot be shown."""

    pixels: UInt8[np.ndarray, "H W 3"] | None
    lines: tuple[str, ...]
    paper: str = WHITE
    """Neighbours of one colour belong together."""


@dataclass(frozen=True)
class Section:
    """Cells under a heading."""

    title: str
    subtitle: str
    cells: tuple[Cell, ...]
    ink: str = INK


def draw_sheet(title: str, sections: Sequence[Section]) -> UInt8[np.ndarray, "H W 3"]:
    """All sections below each other."""
    strips = [_space(GAP), _text(title, TITLE, INK)]
    for section in sections:
        strips += [_space(GAP), _text(section.title, HEADING, section.ink)]
        strips += [_text(line, LABEL + 1, FAINT) for line in _wrapped(section.subtitle, LETTERS_OF_STRIP)]
        strips.append(_space(GAP // 2))
        for start in range(0, len(section.cells), COLUMNS):
            strips += [_row(section.cells[start : start + COLUMNS]), _space(GAP)]
    return np.concatenate(strips)


def kept_in_frame(
    picture: UInt8[np.ndarray, "H W 3"], box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at the size of a cell; what lies outside of the box is faded. Top, left, bottom, right in 0..1."""
    shown = _fitted(picture)
    sides = (shown.shape[0], shown.shape[1]) * 2
    top, left, bottom, right = (round(share * side) for share, side in zip(box, sides))
    faded = np.rint(shown + (255.0 - shown) * FADED).astype(np.uint8)
    faded[top:bottom, left:right] = _rgb(FRAME)
    inner = (slice(top + 2, max(top + 2, bottom - 2)), slice(left + 2, max(left + 2, right - 2)))
    faded[inner] = shown[inner]
    return faded


def middle(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The middle of the picture, pixel by pixel, so that its sharpness can be seen in a cell."""
    top, left = (max(0, (side - CELL) // 2) for side in picture.shape[:2])
    return picture[top : top + CELL, left : left + CELL]


def _row(cells: Sequence[Cell]) -> UInt8[np.ndarray, "H W 3"]:
    """As high as the highest of its pictures and of its texts."""
    pictures = [_blank(CELL, CELL, EMPTY) if cell.pixels is None else _fitted(cell.pixels) for cell in cells]
    texts = [_labels(cell) for cell in cells]
    height, lines = max(len(picture) for picture in pictures), max(map(len, texts))
    row = _blank(height + GAP + lines * LINE, WIDTH, WHITE)
    for place, (cell, picture, labels) in enumerate(zip(cells, pictures, texts)):
        start = GAP // 2 + place * (CELL + GAP)
        part = row[:, start : start + CELL + GAP]  # with half a gap on each side, so that papers touch
        part[:] = _rgb(cell.paper)
        top, left = (GAP + height - picture.shape[0]) // 2, (GAP + CELL - picture.shape[1]) // 2
        part[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        for number, label in enumerate(labels):
            top = height + GAP // 2 + 3 + number * LINE
            part[top : top + LINE, GAP // 2 : GAP // 2 + CELL] = label
    return row


def _labels(cell: Cell) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The first line, a name, loses its middle if it is too long; the others are broken."""
    broken = [line for text in cell.lines[1:] for line in _wrapped(text, LETTERS)]
    inks = [INK, *(FAINT for _ in broken)]
    return [lettered(line, CELL, LABEL, ink, cell.paper) for line, ink in zip((*cell.lines[:1], *broken), inks)]


def _wrapped(text: str, letters: int) -> list[str]:
    return textwrap.wrap(text, letters, max_lines=LINES, placeholder=" ...", break_on_hyphens=False)


def _fitted(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    height, width = picture.shape[:2]
    scale = CELL / max(height, width)
    return scaled(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def _text(text: str, size: int, ink: str) -> UInt8[np.ndarray, "H W 3"]:
    strip = _blank(round(size * 1.4), WIDTH, WHITE)
    strip[:, GAP:-GAP] = lettered(text, WIDTH - 2 * GAP, size, ink)
    return strip


def _space(height: int) -> UInt8[np.ndarray, "H W 3"]:
    return _blank(height, WIDTH, WHITE)


def _blank(height: int, width: int, color: str) -> UInt8[np.ndarray, "H W 3"]:
    return np.full((height, width, 3), _rgb(color), np.uint8)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
