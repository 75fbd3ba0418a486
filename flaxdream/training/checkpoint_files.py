"""The checkpoints of a run folder as files: how one appears whole, and how old ones go; no jax and no Orbax here.

Beside the complete ones (`weights.checkpoint`) may lie, only while a process is at work or after it was killed:
`.checkpoint-<step>.writing...`, one that is not finished; `.checkpoint-<step>.replaced`, an older one of the same
step, until the new one is in its place; `.checkpoint-<step>.removed`, one that is being deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flaxdream.weights.checkpoint import (
    FORMAT,
    MANIFEST,
    Arrays,
    checkpoint_path,
    foreign,
    list_checkpoints,
    order_of,
    whole_one_beside,
)

_LEFTOVER = re.compile(r"\.(checkpoint-\d+)\.(writing|replaced|removed)(\..*)?")


def advice(path: Path) -> str:
    """A sentence on what to resume from instead of a damaged or failed checkpoint."""
    other = whole_one_beside(path)
    if other is None:
        return (
            f" No other checkpoint in {path.parent} is whole; without --resume_from_checkpoint, training starts anew."
        )
    return f" Whole, and the newest but this one, is {other.name}: --resume_from_checkpoint {other.name}"


def clear_leftovers(folder: Path) -> None:
    """Deletes what killed or failed saves left, and puts back what they were about to replace."""
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        if not (match := _LEFTOVER.fullmatch(path.name)):
            continue
        if match[2] == "replaced" and not (folder / match[1]).exists():
            path.rename(folder / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)


def refuse_foreign(folder: Path, step: int) -> None:
    """A ValueError if something that is not ours has the name of the checkpoint."""
    path = checkpoint_path(folder, step)
    if path.exists() and not (path / MANIFEST).is_file():
        raise ValueError(
            f"{path} is in the way: it has no {MANIFEST}, so it is not flaxdream's to replace.{foreign(path)} "
            "Move it away, or choose another --output_dir."
        )


def writing_path(folder: Path, step: int) -> Path:
    """Where a checkpoint lies until it is complete."""
    return _beside(checkpoint_path(folder, step), "writing")


def publish(folder: Path, step: int, arrays: Arrays, extra: dict[str, Any]) -> Path:
    """Makes the finished files in `writing_path` the checkpoint of the step, once they are on the disk."""
    new, path = writing_path(folder, step), checkpoint_path(folder, step)
    files = [file for file in sorted(new.rglob("*")) if file.is_file()]
    sizes = {file.relative_to(new).as_posix(): file.stat().st_size for file in files}
    order = 1 + max((order_of(other) or 0 for other in list_checkpoints(folder)), default=0)
    manifest = {"format": FORMAT, "step": step, "order": order, "extra": extra, "sizes": sizes, "arrays": arrays}
    (new / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    _flush([*files, new / MANIFEST, *(part for part in new.rglob("*") if part.is_dir()), new])
    if path.exists():
        path.rename(_beside(path, "replaced"))
    new.rename(path)
    _flush([folder])
    shutil.rmtree(_beside(path, "replaced"), ignore_errors=True)
    return path


def keep_newest(folder: Path, count: int) -> None:
    """Deletes all but the `count` newest checkpoints."""
    for path in list_checkpoints(folder)[:-count]:
        removed = _beside(path, "removed")
        path.rename(removed)  # so that half of a checkpoint never has its name
        shutil.rmtree(removed, ignore_errors=True)


def _beside(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{state}")


def _flush(paths: Iterable[Path]) -> None:
    """Waits until files, and folders with the names in them, are on the disk."""
    for path in paths:
        if os.name == "nt" and path.is_dir():  # folders cannot be opened there
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
