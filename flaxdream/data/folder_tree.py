"""Pictures of a folder and all folders inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flaxdream.data.images import is_picture

TEXTS = (".txt", ".caption")
TABLES = (".jsonl", ".csv", ".parquet")
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class Entry:
    """A file that is a picture by its name, or one that is left out with the reason."""

    name: str  # path inside the root, with "/"
    size: int  # bytes
    skipped: str | None = None


def split_folder(root: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """The folder of the split, and the names of sub-folders of it that belong to other splits.

    A folder of that name if there is one (`val` and `valid` are "validation" too, as for Hugging Face); else, for
    "train", the root without the folders of the other splits. ValueError if there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if not root.is_dir():
        raise ValueError(
            f"{root}: {'this is a file' if root.exists() else 'there is no such folder'}; expected a folder"
        )
    for name in SPLITS[split]:
        if (root / name).is_dir():
            return root / name, ()
    if split == "train":
        return root, tuple(name for other, names in SPLITS.items() if other != split for name in names)
    raise ValueError(f"{root} has no folder {' or '.join(SPLITS[split])}, so no {split} split")


def walk_pictures(root: Path, without: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every file below the root but texts and tables, folder by folder, by name: every host sees the same order.

    Hidden folders (`.cache` of Hub downloads) and the sub-folders `without` are not entered, nor a folder that a link
    leads to for the second time.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            status = os.stat(root / inside)
            entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"{root / inside}: the folder cannot be read: {error.strerror}") from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        folders = [name for name in folders if inside or name not in without]
        waiting += [f"{inside}{name}/" for name in reversed(folders)]
        yield from (_entry(inside, entry) for entry in entries if not entry.is_dir() and not _is_text(entry.name))


def _is_text(name: str) -> bool:
    return name.lower().endswith((*TEXTS, *TABLES))


def _entry(inside: str, entry: os.DirEntry[str]) -> Entry:
    name = inside + entry.name
    if not entry.is_file():
        return Entry(name, 0, "broken links")
    if entry.name.startswith(".") or not is_picture(entry.name):
        return Entry(name, 0, "other files")
    size = entry.stat().st_size
    return Entry(name, size, None if size else "empty files")
