"""The checkpoints of a run folder as files: which are there, whole and newest; no jax and no Orbax here.

`checkpoint-<step>` appears by a rename, after all of it is on the disk, so what has that name is complete. Beside
it may lie, only while a process is at work or after it was killed: `.checkpoint-<step>.writing...`, one that is
not finished; `.checkpoint-<step>.replaced`, an older one of the same step, until the new one is in its place;
`.checkpoint-<step>.removed`, one that is being deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arrays = dict[str, tuple[tuple[int, ...], str]]  # shape and dtype of each leaf, by its name

MANIFEST = "checkpoint.json"  # written last
FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")
_LEFTOVER = re.compile(r"\.(checkpoint-\d+)\.(writing|replaced|removed)(\..*)?")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint, as its manifest tells."""

    path: Path
    step: int
    order: int  # the newest of a folder has the highest, whatever its step
    arrays: Arrays
    extra: dict[str, Any]
    sizes: dict[str, int]  # of its files, in bytes


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies; the name is diffusers'."""
    return folder / f"checkpoint-{step}"


class DamagedCheckpointError(ValueError):
    """A checkpoint that was complete, and of which something is gone since."""


def read_checkpoint(path: Path) -> SavedCheckpoint:
    """The manifest of a checkpoint; a ValueError if there is none, or one that cannot be read."""
    manifest = _read_manifest(path)
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {manifest.get('format')!r}, and this version of flaxdream reads {FORMAT}; "
            "resume with the version that wrote it."
        )
    arrays = {name: (tuple(shape), dtype) for name, (shape, dtype) in manifest["arrays"].items()}
    return SavedCheckpoint(path, manifest["step"], manifest["order"], arrays, manifest["extra"], manifest["sizes"])


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the newest last.

    The newest is the one written last: after a run went on from an earlier step, its checkpoints count, not
    those with higher steps that it left behind. One whose manifest cannot be read takes its place by its step.
    """
    if not folder.is_dir():
        return []
    steps = {path: int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    orders = {path: _order(path) for path in sorted(steps, key=steps.__getitem__) if (path / MANIFEST).is_file()}
    position, placed = 0.0, {}
    for path, order in orders.items():
        position = position + 0.5 if order is None else float(order)
        placed[path] = (position, steps[path])
    return sorted(placed, key=placed.__getitem__)


def faults(saved: SavedCheckpoint) -> list[str]:
    """What is missing from a checkpoint's files, or has another size than was written."""
    found = []
    for name, size in saved.sizes.items():
        file = saved.path / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != size:
            found.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
    return found


def advice(path: Path) -> str:
    """A sentence on what to resume from instead of a damaged or failed checkpoint."""
    others = [other for other in list_checkpoints(path.parent) if other.name != path.name and _is_whole(other)]
    if not others:
        return (
            f" No other checkpoint in {path.parent} is whole; without --resume_from_checkpoint, training starts anew."
        )
    return f" Whole, and the newest but this one, is {others[-1].name}: --resume_from_checkpoint {others[-1].name}"


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
            f"{path} is in the way: it has no {MANIFEST}, so it is not flaxdream's to replace.{_foreign(path)} "
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
    order = 1 + max((_order(other) or 0 for other in list_checkpoints(folder)), default=0)
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


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise ValueError(f"{path} is no checkpoint of flaxdream: it has no {MANIFEST}.{_foreign(path)}")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: its {MANIFEST} cannot be read.") from error


def _order(path: Path) -> int | None:
    try:
        return _read_manifest(path).get("order")
    except ValueError:
        return None


def _is_whole(path: Path) -> bool:
    try:
        return not faults(read_checkpoint(path))
    except ValueError:
        return False


def _foreign(path: Path) -> str:
    if (path / "optimizer.bin").is_file() or list(path.glob("random_states_*.pkl")):
        return " PyTorch's accelerate wrote it; flaxdream cannot go on from it."
    return ""


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
