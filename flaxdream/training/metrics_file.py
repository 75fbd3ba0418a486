"""metrics.jsonl: one JSON object a line and one line a step, whatever kills the run."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends a line a step; the line is in the file when `log` returns, so that kill -9 loses none.

    `resume_step` is the step of the checkpoint that the run goes on from: later lines are of steps that will be
    taken again, and are removed. None is a fresh start, which removes all. One process writes a file at a time.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None):
        self.path = Path(path)
        kept = [] if resume_step is None else [row for row in read_metrics(path) if row["step"] <= resume_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(self.path, "".join(map(_line, kept)).encode())
        self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115  closed by close()
        self._last: dict[str, Any] = kept[-1] if kept else {}
        self._end = self.path.stat().st_size
        self._start = self._end - len(_line(self._last).encode()) if kept else self._end

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the numbers of a step; those of the step that was written last join its line."""
        assert not {"step", "time"} & metrics.keys(), "these two are written here"
        values = {name: _plain(value) for name, value in metrics.items()}
        if self._last.get("step") == step:
            self._last |= values
        else:
            self._start = self._end
            self._last = {"step": int(step), "time": round(time.time(), 3), **values}
        line = _line(self._last).encode()
        self._file.seek(self._start)
        _write_all(self._file, line)
        self._end = self._start + len(line)
        self._file.truncate(self._end)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as dicts, in the order of their steps, one a step; none when there is no file.

    What is not a whole JSON object with a step, the half-written last line of a killed run above all, is left out.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in lines[:-1]:  # what follows the last line end is empty or half a line
        row = _parsed(line)
        if row is not None:
            rows[row["step"]] = rows.get(row["step"], {}) | row
    return [rows[step] for step in sorted(rows)]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _plain(value: Any) -> int | float | None:
    """A number that JSON has, of Python, numpy or JAX; None if it is not finite."""
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _write_all(file: Any, data: bytes) -> None:
    """A file without buffer may take a part; the next write then says why (a full disk)."""
    while data:
        data = data[file.write(data) :]


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
