"""What is wrong with captions before they are tokens: none, nobody's, or the same for many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flaxdream.data.findings import Case, Finding, Level, cases_of, counted
from flaxdream.data.folder_captions import FolderCaptions, NoCaption
from flaxdream.data.folder_metadata import metadata_file, read_metadata
from flaxdream.data.folder_set import FolderSet
from flaxdream.data.folder_tree import TEXTS
from flaxdream.data.images import is_picture
from flaxdream.data.picture_set import Part, PictureSet

HOW_TO_CAPTION = (
    "Write image.txt beside image.png, or take captions from file names (--captions filename). "
    "Pictures of one subject for DreamBooth need no captions: give --instance_prompt 'a photo of sks dog'."
)


def missing_captions(
    pictures: PictureSet, missing_caption: str, source: FolderCaptions | None = None
) -> Iterator[Finding]:
    """Pictures whose only caption is the empty one; `source` is asked for the reason."""
    without = [index for index in range(len(pictures)) if pictures.captions(index) == ("",)]
    if not without:
        return
    level: Level = "error"
    advice = f"Training goes on without. {HOW_TO_CAPTION}"
    if missing_caption == "empty":
        level, advice = "note", "Trained on the empty prompt, as --missing_caption empty asks."
    elif missing_caption == "error":
        advice = f"Training stops here. {HOW_TO_CAPTION}"
    reasons = [_reason(source, pictures.path(index)) if source else "" for index in without]
    title = f"{counted(len(without), 'picture')} without a caption"
    yield Finding("no_caption", level, title, advice, cases_of(pictures, without, reasons))


def _reason(source: FolderCaptions, path: Path) -> str:
    try:
        source.of(path)
    except NoCaption as problem:
        reason = str(problem).removeprefix("pictures ")
        return "" if reason == "without caption" else reason
    return ""


def lost_captions(pictures: PictureSet, captions: str, caption_column: str) -> Iterator[Finding]:
    """Captions of a folder that belong to no picture."""
    whole = pictures.whole if isinstance(pictures, Part) else pictures
    if not isinstance(whole, FolderSet) or captions == "filename":
        return
    texts, rows = _lost(whole.folder, captions, caption_column)
    if rows:
        title = f"{counted(len(rows), 'row')} of the metadata without a picture"
        yield Finding(
            "lost_rows", "warning", title, "Put the pictures there that they name, or delete the rows.", _cases(rows)
        )
    if texts:
        title = f"{counted(len(texts), 'text file')} without a picture of the same name"
        yield Finding("lost_texts", "note", title, "If these are captions, pictures are missing.", _cases(texts))


def _cases(names: list[str]) -> tuple[Case, ...]:
    return tuple(Case((name,)) for name in names)


def _lost(root: Path, captions: str, column: str) -> tuple[list[str], list[str]]:
    """Names of text files, and of rows of metadata files, that belong to no picture."""
    texts: list[str] = []
    rows: list[str] = []
    below_metadata: set[Path] = set()
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(place)
        metadata = metadata_file(folder) if captions != "txt" else None
        if metadata is not None:
            inside = folder.relative_to(root)
            rows += [
                f"{(inside / metadata.name).as_posix()}: {name}"
                for name in read_metadata(metadata, column)
                if not (folder / name).is_file()
            ]
        if metadata is not None or folder.parent in below_metadata:
            below_metadata.add(folder)
        elif captions != "metadata":
            texts += [(folder.relative_to(root) / name).as_posix() for name in _lone_texts(files)]
    return texts, rows


def _lone_texts(files: list[str]) -> list[str]:
    owners = {owner for name in files if is_picture(name) for owner in (name, Path(name).stem)}
    return sorted(
        name for name in files if name.endswith(TEXTS) and not name.startswith(".") and Path(name).stem not in owners
    )
