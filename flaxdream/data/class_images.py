"""The folder of class pictures (prior preservation): how many are missing, and how new ones are written.

The sampler draws picture k from an address of its own, so that any set of k can be drawn in any batches on any
number of devices. A generation that was killed goes on with the numbers that are not there yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flaxdream.data.digests import pixel_digest
from flaxdream.data.folders import scan_folder
from flaxdream.data.images import read_png_settings, write_png

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

NAME = re.compile(r"(\d+)-[0-9a-f]{40}")  # as diffusers names them: number-sha1


def missing_class_images(folder: str | Path, wanted: int) -> list[int]:
    """The numbers of the pictures to draw until the folder holds `wanted`; empty if it does.

    Every picture counts, the user's own too; among generated ones the smallest free numbers are taken.
    """
    if not Path(folder).exists():
        return list(range(wanted))
    pictures = scan_folder(folder).pictures
    taken = {int(match[1]) for path in pictures if (match := NAME.fullmatch(path.stem))}
    free = (number for number in range(len(taken) + wanted) if number not in taken)
    return [next(free) for _ in range(wanted - len(pictures))]


def save_class_image(
    folder: str | Path, number: int, pixels: UInt8[np.ndarray, "H W 3"], settings: Mapping[str, object]
) -> Path:
    """Writes `number-sha1.png` whole or not at all, with the settings that drew it as text chunks; returns its path.

    PNG where diffusers writes JPEG: the class prior then has no compression marks to teach, and the name can be
    checked against the content.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}-{pixel_digest(pixels)}.png"
    write_png(path, pixels, {name: str(value) for name, value in settings.items()})
    return path


def drawn_otherwise(folder: str | Path, settings: Mapping[str, object]) -> list[str]:
    """One line for each setting (prompt, model, ...) in which generated pictures of the folder differ from these.

    Pictures without settings, the user's own or those of other trainers, are not judged.
    """
    if not Path(folder).exists():
        return []
    pictures = [path for path in scan_folder(folder).pictures if NAME.fullmatch(path.stem)]
    lines = []
    recorded = [read_png_settings(path) for path in pictures if path.suffix.lower() == ".png"]
    for name, value in settings.items():
        others = [known[name] for known in recorded if name in known and known[name] != str(value)]
        if others:
            lines.append(f"{folder}: {len(others)} pictures were drawn with {name} {others[0]!r}, not {str(value)!r}")
    return lines
