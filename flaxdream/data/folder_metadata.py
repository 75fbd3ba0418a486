"""Captions from `metadata.jsonl`, `metadata.csv` or `metadata.parquet`, as Hugging Face's imagefolder has them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxdream.data.captions import texts_of

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_COLUMN = "file_name"


def metadata_file(folder: Path) -> Path | None:
    """The folder's metadata file; ValueError if it has two."""
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} has {found[0].name} and {found[1].name}; keep one")
    return found[0] if found else None


def read_metadata(path: Path, caption_column: str) -> dict[str, tuple[str, ...]]:
    """Captions by file name (with "/", relative to the metadata's folder); () where the row has none.

    A caption is text or a list of texts. ValueError names line and column of what is wrong.
    """
    captions: dict[str, tuple[str, ...]] = {}
    columns: dict[str, None] = {}
    for where, row in _rows(path):
        columns |= dict.fromkeys(row)
        name = row.get(FILE_COLUMN)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{path}, {where}: no {FILE_COLUMN!r}; its columns are {', '.join(row)}")
        captions[Path(name).as_posix()] = texts_of(row.get(caption_column), f"{path}, {where}, {caption_column}")
    if caption_column not in columns:
        others = ", ".join(name for name in columns if name != FILE_COLUMN) or "none"
        raise ValueError(f"{path} has no column {caption_column!r} (--caption_column); it has {others}")
    return captions


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row stands in the file, and the row."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            batches = pyarrow.parquet.ParquetFile(path).iter_batches()
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
            return
        with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
            if path.suffix == ".csv":
                reader = csv.DictReader(file)
                yield from ((f"line {reader.line_num}", row) for row in reader)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", _json_object(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it again as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def _json_object(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f'{where}: expected an object such as {{"file_name": "0001.png", "text": "a red dog"}}')
    return row
