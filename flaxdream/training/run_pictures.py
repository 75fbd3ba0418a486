"""The pictures of a run folder: validation/step-000400/ with its grid, and thumbs/ of the training pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from flaxdream.arrays import Shaped
from flaxdream.sampling.pictures import Picture, contact_sheet, jpeg_thumbnail, save_png
from flaxdream.sampling.prompts import Request

CELL = 384  # pixels of a picture in the grid, at most
SMALLEST_CELL = 192  # and at least, so that captions can be read
STEP_FOLDER = re.compile(r"step-(\d{6,})")


def write_validation(folder: str | Path, step: int, pictures: Sequence[Picture], requests: Sequence[Request]) -> Path:
    """Writes `folder`/validation/step-<step>/ whole or not at all, and returns the path of its grid.png.

    One request a picture, with the picture's own seed; requests that differ in nothing but the seed are a prompt's
    row. The files are <prompt>-<picture>.png, both from 00; prompts.json has a prompt's settings, with the file and
    the seed of each picture under `images`. What a killed run wrote for the step is replaced.
    """
    if len(pictures) != len(requests) or not pictures:
        raise ValueError(f"{len(pictures)} pictures and {len(requests)} requests: give at least one, and a pair each.")
    target = Path(folder) / "validation" / f"step-{step:06d}"
    new, old = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    rows = _rows(requests)
    entries = []
    for prompt, numbers in enumerate(rows):
        images = []
        for image, number in enumerate(numbers):
            name = f"{prompt:02d}-{image:02d}.png"
            settings = {"step": step, **asdict(requests[number])}
            save_png(new / name, pictures[number], {k: v for k, v in settings.items() if v is not None})
            images.append({"file": name, "seed": requests[number].seed})
        entries.append({**asdict(requests[numbers[0]]), "images": images})
    _write_grid(new / "grid.png", step, [[pictures[n] for n in row] for row in rows], [requests[r[0]] for r in rows])
    (new / "prompts.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target / "grid.png"


def remove_validations_after(folder: str | Path, step: int) -> None:
    """Removes the validation pictures of later steps (of all with -1): a run that starts there draws them anew."""
    validation = Path(folder) / "validation"
    if not validation.is_dir():
        return
    for entry in list(validation.iterdir()):
        match = STEP_FOLDER.fullmatch(entry.name)
        leftover = re.fullmatch(rf"\.{STEP_FOLDER.pattern}\.(partial|old)", entry.name)
        if leftover or (match and int(match[1]) > step):
            shutil.rmtree(entry)


def write_thumbs(
    folder: str | Path, kind: str, pictures: Iterable[Shaped[np.ndarray, "H W 3"]], longest: int = 384
) -> None:
    """Writes `folder`/thumbs/<kind>-00.jpg and so on, from 8-bit RGB; earlier ones of the kind go. A dozen will do."""
    thumbs = Path(folder) / "thumbs"
    thumbs.mkdir(parents=True, exist_ok=True)
    for path in thumbs.glob(f"{kind}-*.jpg"):
        path.unlink()
    for number, pixels in enumerate(pictures):
        partial = thumbs / f".{kind}.partial"
        partial.write_bytes(jpeg_thumbnail(pixels, longest)[0])
        os.replace(partial, thumbs / f"{kind}-{number:02d}.jpg")


def _rows(requests: Sequence[Request]) -> list[list[int]]:
    """The numbers of the requests, those that differ in the seed alone together, in the order of appearance."""
    rows: dict[Request, list[int]] = {}
    for number, request in enumerate(requests):
        rows.setdefault(replace(request, seed=None), []).append(number)
    return list(rows.values())


def _write_grid(path: Path, step: int, rows: Sequence[Sequence[Picture]], requests: Sequence[Request]) -> None:
    """A row a prompt; a single prompt in as many columns as rows, about."""
    cell = min(CELL, max(max(picture.size) for row in rows for picture in row))
    captions = [request.prompt for row, request in zip(rows, requests, strict=True) for _ in row]
    columns = max(map(len, rows)) if len(rows) > 1 and len(set(map(len, rows))) == 1 else None
    sheet = contact_sheet([picture for row in rows for picture in row], captions, columns, max(cell, SMALLEST_CELL))
    save_png(path, sheet, {"step": step})
