"""The pictures of a Hugging Face data set that lies in Arrow files on this machine; a PictureSet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxdream.data.digests import text_digest
from flaxdream.data.folder_set import check_missing_caption
from flaxdream.data.hub_columns import Columns, stored
from flaxdream.data.images import picture_size, read_picture
from flaxdream.data.left_out import LeftOut

if TYPE_CHECKING:
    from jaxtyping import UInt8

CHUNK = 4096  # rows whose captions are looked through at a time


class HubSet:
    """Rows with a picture and a caption; all is read from the memory-mapped file when it is asked for.

    A caption is text, a list of texts, or a class label. Rows without one are left out and counted in `notes`, unless
    `missing_caption` says otherwise.
    """

    def __init__(
        self,
        dataset: Any,
        name: str,
        *,
        image_column: str = "image",
        caption_column: str = "text",
        missing_caption: str = "leave_out",
    ):
        """`dataset` is a `datasets.Dataset`: one split, from `hub_loading.load_split`."""
        check_missing_caption(missing_caption)
        self.name = name
        self._columns = Columns(dataset.features, name, image_column, caption_column)
        self._images = self._columns.undecoded(dataset.select_columns([image_column]))
        self._texts = dataset.select_columns([caption_column])
        self.left_out = LeftOut()
        self._rows = self._with_caption(missing_caption)
        self.notes = tuple(self.left_out.lines(name))
        if not len(self):
            raise ValueError("; ".join([f"{name}: there is no row with a caption", *self.notes]))
        self.fingerprint = text_digest(self._content())

    def __len__(self) -> int:
        return len(self._images) if self._rows is None else len(self._rows)

    def captions(self, index: int) -> tuple[str, ...]:
        row = self._row(index)
        return self._columns.captions(self._texts[row][self._columns.caption], self._where(row)) or ("",)

    def path(self, index: int) -> Path:
        return Path(self._where(self._row(index)))

    def size(self, index: int) -> tuple[int, int]:
        return picture_size(*self.stored(index))

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        return stored(self._images[self._row(index)][self._columns.image], self.path(index))

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return read_picture(*self.stored(index))

    def _row(self, index: int) -> int:
        return index if self._rows is None else int(self._rows[index])

    def _where(self, row: int) -> str:
        return f"{self.name}/row {row}"

    def _with_caption(self, missing_caption: str) -> np.ndarray | None:
        """The rows that have a caption; None where all have one, or need none."""
        found, row = [], 0
        for part in self._texts.iter(CHUNK):
            for value in part[self._columns.caption]:
                if self._columns.captions(value, self._where(row)):
                    found.append(row)
                elif missing_caption == "error":
                    raise ValueError(f"{self._where(row)}: column {self._columns.caption!r} holds no caption")
                elif missing_caption == "leave_out":
                    self.left_out.add("rows without caption", f"row {row}")
                row += 1
        return np.array(found, np.int64) if self.left_out.counts else None

    def _content(self) -> Iterator[str]:
        """Captions, and names and sizes in bytes of pictures: from Arrow's offsets, without touching a picture."""
        for part in self._texts.with_format("arrow").iter(CHUNK):
            yield from map(str, part.column(0).to_pylist())
        for part in self._images.with_format("arrow").iter(CHUNK):
            for chunk in part.column(0).chunks:
                yield from _sizes_and_names(chunk)


def _sizes_and_names(cells: Any) -> Iterator[str]:
    import pyarrow

    columns = [cells.field(name) for name in ("bytes", "path")] if pyarrow.types.is_struct(cells.type) else [cells]
    for values in zip(*(_described(column) for column in columns)):
        yield from map(str, values)


def _described(column: Any) -> list[Any]:
    """Lengths of bytes, names of files."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type):
        return pyarrow.compute.binary_length(column).to_pylist()
    return [Path(value).name if isinstance(value, str) else value for value in column.to_pylist()]
