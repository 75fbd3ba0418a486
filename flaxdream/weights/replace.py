"""A folder that changes as a whole: written beside its place, then moved in.

Beside a folder `model` there may be `.model.writing-PID`, a copy that is not finished (thrown away by the next
run), and `.model.ready`, a finished one that was not yet moved in completely (moved in by the next run).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INDEX = "model_index.json"  # there only while everything that it lists is there
_REPLACED = ".replaced_index.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new empty folder that becomes `target` when the block ends, or vanishes when it raises.

    What the old `target` held besides the model (checkpoints, logs) stays. One process writes a folder at a time.
    On a full disk the OSError says so, and that nothing changed.
    """
    target = target.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; give the name of a folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    finish_interrupted(target)
    _remove_abandoned(target)
    new = target.with_name(f".{target.name}.writing-{os.getpid()}")
    new.mkdir()
    try:
        yield new
        _flush(new)
        if target.exists():
            new.rename(_ready(target))
        else:
            new.rename(target)
        _flush_names(target.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(target.parent).free / 1e6
        raise OSError(
            error.errno,
            f"{target} could not be written: {error.strerror} ({free:.0f} MB free there). What was there before is as "
            "it was. Make room there, and try again",
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    finish_interrupted(target)


def finish_interrupted(target: Path) -> None:
    """Moves in a finished copy, from the point where a killed run left it; does nothing when there is none.

    While it is at work `target` has no model_index.json, so that nobody takes half of each model for one.
    """
    target = target.expanduser().resolve()
    ready = _ready(target)
    if not ready.is_dir():
        return
    target.mkdir(exist_ok=True)
    if (ready / INDEX).is_file() and (target / INDEX).is_file():
        os.replace(target / INDEX, ready / _REPLACED)
    entries = [entry for entry in ready.iterdir() if entry.name not in (INDEX, _REPLACED)]
    if (ready / INDEX).is_file():
        for name in _listed(ready / _REPLACED) - _listed(ready / INDEX):
            _remove(target / name)
    for entry in entries:
        _remove(target / entry.name)
        entry.rename(target / entry.name)
    _flush_names(target)
    if (ready / INDEX).is_file():
        (ready / INDEX).rename(target / INDEX)
        _flush_names(target)
    shutil.rmtree(ready)


def _ready(target: Path) -> Path:
    return target.with_name(f".{target.name}.ready")


def _remove_abandoned(target: Path) -> None:
    """Removes unfinished copies whose process is gone."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.writing-(\d+)")
    for entry in target.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(entry)


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return False
    if os.name == "nt":  # there os.kill would end it; the copy stays
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _listed(index: Path) -> set[str]:
    """The components of a model_index.json; only plain names, as they are going to be removed."""
    if not index.is_file():
        return set()
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        return set()
    names = {name for name, entry in entries.items() if isinstance(entry, list)} if isinstance(entries, dict) else set()
    return {name for name in names if re.fullmatch(r"\w+", name)}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Waits until the folder's files and their names are on the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            with open(Path(root) / name, "rb") as file:
                os.fsync(file.fileno())
        _flush_names(Path(root))


def _flush_names(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
