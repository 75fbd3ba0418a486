"""Checkpoints of the training state: asynchronous Orbax, complete or not there at all, restored bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxdream.arrays import PyTree
from flaxdream.training import checkpoint_files as files
from flaxdream.training.checkpoint_arrays import describe, named_leaves, refuse_unsavable, restore_checkpoint
from flaxdream.weights.checkpoint import Arrays, checkpoint_path, list_checkpoints, read_checkpoint
from flaxdream.weights.checkpoint_arrays import array_handler, import_orbax

TIMEOUT = 3600  # seconds for a save, over all processes
_REASONS = r"No space left on device|File too large|Disk quota exceeded|Permission denied|Read-only file system"


class CheckpointNotSavedError(RuntimeError):
    """A save failed, now or in the background; the checkpoints before it are as they were."""


class Checkpoints:
    """The checkpoints of one run, which is the only one that writes into the folder.

    In a run of several processes all of them make the same calls and see the same folder. What a killed run left
    unfinished is deleted here. `total_limit` is the number of checkpoints to keep, None keeps all; an older one
    goes when the new one is complete and on the disk.
    """

    def __init__(self, folder: str | Path, total_limit: int | None = None):
        if total_limit is not None and total_limit < 1:
            raise ValueError(
                f"--checkpoints_total_limit {total_limit} would keep no checkpoint; give 1 or more, or leave it out."
            )
        self._folder = Path(folder).expanduser().absolute()
        self._limit = total_limit
        self._here: int | None = None  # the step whose state is the newest checkpoint
        self._finishing: tuple[int, Future[None]] | None = None
        self._bytes = 0  # of the last state
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._orbax: Any = None
        if _is_primary():
            files.clear_leftovers(self._folder)

    def save(self, step: int, state: PyTree, extra: dict[str, Any]) -> None:
        """Saves the state after `step` steps; returns when it is copied to host memory, so it can be donated.

        `extra` is JSON. An earlier save is waited for, and raises here if it failed. If the state was just saved
        or restored at this very step, nothing is written.
        """
        self.wait()
        if step == self._here:
            return
        arrays = named_leaves(state)
        refuse_unsavable(arrays)
        extra = _as_json(extra)
        if _is_primary():
            files.refuse_foreign(self._folder, step)
        self._here, self._bytes = None, sum(array.nbytes for array in arrays.values())
        try:
            self._start(step, arrays)
        except Exception as error:
            raise self._failure(step, error) from error
        self._finishing = (step, self._worker.submit(self._finish, step, describe(arrays), extra))

    def check(self) -> None:
        """Raises the error of a save that failed in the background; does not wait."""
        if self._finishing and self._finishing[1].done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is complete and on the disk, or raises its error."""
        if self._finishing is None:
            return
        (step, finishing), self._finishing = self._finishing, None
        try:
            finishing.result()
        except Exception as error:
            raise self._failure(step, error) from error
        self._here = step

    def latest(self) -> Path | None:
        """The newest complete checkpoint, the same on every process."""
        self.wait()
        return latest_checkpoint(self._folder)

    def restore(self, path: str | Path, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """`restore_checkpoint`, of which the next save knows."""
        self.wait()
        state, extra = restore_checkpoint(path, abstract_state)
        if Path(path).expanduser().absolute() == self.latest():
            self._here = read_checkpoint(Path(path)).step
        return state, extra

    def close(self) -> None:
        """Waits for the last save."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            if self._orbax is not None:
                self._orbax.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except CheckpointNotSavedError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    def _start(self, step: int, arrays: dict[str, jax.Array]) -> None:
        orbax = import_orbax()
        if self._orbax is None:
            self._orbax = orbax.AsyncCheckpointer(array_handler(orbax), timeout_secs=TIMEOUT)
        if _is_primary():
            self._folder.mkdir(parents=True, exist_ok=True)
            files.clear_leftovers(self._folder)
        self._orbax.save(files.writing_path(self._folder, step), args=orbax.args.PyTreeSave(arrays))

    def _finish(self, step: int, arrays: Arrays, extra: dict[str, Any]) -> None:
        self._orbax.wait_until_finished()
        if _is_primary():
            files.publish(self._folder, step, arrays, extra)
            if self._limit is not None:
                files.keep_newest(self._folder, self._limit)

    def _failure(self, step: int, error: Exception) -> CheckpointNotSavedError:
        if _is_primary():
            files.clear_leftovers(self._folder)
        reason = re.search(_REASONS, str(error)) or re.search(r".*", f"{type(error).__name__}: {error}")
        kept = ", ".join(path.name for path in list_checkpoints(self._folder))
        return CheckpointNotSavedError(
            f"{checkpoint_path(self._folder, step)} could not be written ({_gigabytes(self._bytes)}"
            f"{_free(self._folder)}): {reason[0] if reason else error}\n"
            f"{f'Earlier checkpoints are as they were: {kept}.' if kept else 'There is no earlier checkpoint.'} "
            "Make room there, with a smaller --checkpoints_total_limit too, or choose another --output_dir; then go "
            "on with --resume_from_checkpoint."
        )


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint of a run folder; with several processes, the one that the first of them sees."""
    folder = Path(folder).expanduser().absolute()
    found = list_checkpoints(folder)
    if jax.process_count() == 1:
        return found[-1] if found else None
    step = -1 if not found else int(found[-1].name.rpartition("-")[2])
    step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    return None if step < 0 else checkpoint_path(folder, step)


def _is_primary() -> bool:
    return jax.process_index() == 0


def _as_json(extra: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(extra))
    except (TypeError, ValueError) as error:
        raise ValueError(f"what is saved beside the state must be JSON: {error}") from error


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _free(folder: Path) -> str:
    try:
        return f", and {_gigabytes(shutil.disk_usage(folder).free)} are free there"
    except OSError:
        return ""
