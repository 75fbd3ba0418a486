"""Which checkpoint a run goes on from, and what changed in its settings since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from flaxdream.training import checkpoint_files as files
from flaxdream.training.checkpoints import latest_checkpoint


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | None) -> Path | None:
    """The checkpoint that --resume_from_checkpoint means: `latest`, a name in output_dir, or a path.

    None means to start from scratch: without the flag, and for `latest` where there is none yet, which is said.
    """
    folder = Path(output_dir).expanduser().absolute()
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint == "latest":
        found = latest_checkpoint(folder)
        if found is None and jax.process_index() == 0:
            print(f"--resume_from_checkpoint latest: {folder} holds no checkpoint yet, so training starts from scratch")
        return found
    for path in (folder / resume_from_checkpoint, Path(resume_from_checkpoint).expanduser().absolute()):
        if path.is_dir() and path != folder:
            return _checked(path)
    raise ValueError(
        f"--resume_from_checkpoint {resume_from_checkpoint}: there is no such checkpoint. {_there(folder)}"
    )


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], fields: Iterable[str]) -> list[str]:
    """A sentence for each of the fields whose value is not what it was; both are configs as plain dicts."""
    found = []
    for field in fields:
        before, now = _plain(saved.get(field)), _plain(current.get(field))
        if before != now:
            found.append(f"--{field} was {_shown(before)} and is {_shown(now)}.")
    return found


def _checked(path: Path) -> Path:
    try:
        files.read_checkpoint(path)
    except files.DamagedCheckpointError as error:
        raise files.DamagedCheckpointError(f"{error}{files.advice(path)}") from error
    except ValueError as error:
        raise ValueError(f"--resume_from_checkpoint: {error} {_there(path)}") from error
    return path


def _there(folder: Path) -> str:
    names = [path.name for path in reversed(files.list_checkpoints(folder))]
    return f"{folder} holds {', '.join(names)}." if names else f"{folder} holds no checkpoint."


def _plain(value: Any) -> Any:
    """The value as it comes back from JSON or YAML: tuples are lists there."""
    return json.loads(json.dumps(value, default=str))


def _shown(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) and value else json.dumps(value)
