"""Training checkpoints as files: which are there, whole and newest, and what their manifest says; no jax here.

`checkpoint-<step>` appears by a rename, after all of it is on the disk, so what has that name and a manifest is
complete. Arrays are known by their names in the training state: `params.unet.conv_in.kernel`, `ema.params...`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arrays = dict[str, tuple[tuple[int, ...], str]]  # shape and dtype of each leaf, by its name

MANIFEST = "checkpoint.json"  # written last
FORMAT = 1
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint, as its manifest tells."""

    path: Path
    step: int
    order: int  # the newest of a folder has the highest, whatever its step
    arrays: Arrays
    extra: dict[str, Any]
    sizes: dict[str, int]  # of its files, in bytes


class DamagedCheckpointError(ValueError):
    """A checkpoint that was complete, and of which something is gone since."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies; the name is diffusers'."""
    return folder / f"checkpoint-{step}"


def read_checkpoint(path: Path) -> SavedCheckpoint:
    """The manifest of a checkpoint; a ValueError if there is none, or one that cannot be read."""
    manifest = _read_manifest(path)
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {manifest.get('format')!r}, and this version of flaxdream reads {FORMAT}; "
            "use the version that wrote it."
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
    steps = {path: int(match[1]) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))}
    orders = {path: order_of(path) for path in sorted(steps, key=steps.__getitem__) if (path / MANIFEST).is_file()}
    position, placed = 0.0, {}
    for path, order in orders.items():
        position = position + 0.5 if order is None else float(order)
        placed[path] = (position, steps[path])
    return sorted(placed, key=placed.__getitem__)


def listed_checkpoints(folder: Path) -> str:
    """A sentence with the names of the checkpoints in a folder, the newest first."""
    names = [path.name for path in reversed(list_checkpoints(folder))]
    return f"{folder} holds {', '.join(names)}." if names else f"{folder} holds no checkpoint."


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


def whole_one_beside(path: Path) -> Path | None:
    """The newest whole checkpoint of the same run, other than this one."""
    others = [other for other in list_checkpoints(path.parent) if other.name != path.name and _is_whole(other)]
    return others[-1] if others else None


def order_of(path: Path) -> int | None:
    """A checkpoint's place among those of its run; None where the manifest cannot be read."""
    try:
        return _read_manifest(path).get("order")
    except ValueError:
        return None


def foreign(path: Path) -> str:
    """A sentence on who wrote a folder that is no checkpoint of ours, or nothing."""
    if (path / "optimizer.bin").is_file() or list(path.glob("random_states_*.pkl")):
        return " PyTorch's accelerate wrote it; flaxdream cannot go on from it."
    return ""


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise ValueError(f"{path} is no checkpoint of flaxdream: it has no {MANIFEST}.{foreign(path)}")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: its {MANIFEST} cannot be read.") from error


def _is_whole(path: Path) -> bool:
    try:
        return not faults(read_checkpoint(path))
    except ValueError:
        return False
