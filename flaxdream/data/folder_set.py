"""A folder of pictures with captions beside them, in a metadata file or in their names; a PictureSet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flaxdream.data.digests import text_digest
from flaxdream.data.folder_captions import FolderCaptions, NoCaption
from flaxdream.data.folder_tree import split_folder, walk_pictures
from flaxdream.data.images import picture_size, read_picture
from flaxdream.data.left_out import LeftOut
from flaxdream.data.text_table import TextTable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

MISSING_CAPTION = {
    "leave_out": "goes on without the picture",
    "empty": "trains the picture on the empty prompt",
    "error": "stops",
}


class FolderSet:
    """The pictures of a folder and its sub-folders, by name.

    A picture without a caption is left out and counted in `notes`, unless `missing_caption` says otherwise.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        *,
        captions: str = "auto",
        caption_column: str = "text",
        caption_per_line: bool = False,
        missing_caption: str = "leave_out",
    ):
        """`captions` is a name of `folder_captions.SOURCES`; `caption_per_line`: each line of a text file is one.

        ValueError if the folder or split is not there, a metadata file is damaged, or no picture is left.
        """
        check_missing_caption(missing_caption)
        self.name, self._missing_caption = str(folder), missing_caption
        self.folder, others = split_folder(Path(folder), split)
        self.left_out = LeftOut()
        self._names, self._captions, self._sizes = TextTable(), TextTable(), TextTable()
        self._fill(FolderCaptions(Path(folder), captions, caption_column, caption_per_line), others)
        self.notes = tuple(self.left_out.lines(str(self.folder)))
        if not len(self):
            hint = "expected pictures with text files beside them or a metadata.jsonl, or captions from file names"
            raise ValueError("; ".join([f"{self.folder}: there is no picture with a caption", *self.notes, hint]))
        tables = (self._names, self._sizes, self._captions)
        self.fingerprint = text_digest(text for entries in zip(*tables) for texts in entries for text in texts)

    def __len__(self) -> int:
        return len(self._names)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[index]

    def path(self, index: int) -> Path:
        return self.folder / self._names[index][0]

    def size(self, index: int) -> tuple[int, int]:
        return picture_size(self.path(index))

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        return self.path(index), None

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return read_picture(*self.stored(index))

    def _fill(self, captions: FolderCaptions, others: tuple[str, ...]) -> None:
        for entry in walk_pictures(self.folder, others):
            if entry.skipped:
                self.left_out.add(entry.skipped, entry.name)
                continue
            try:
                texts = captions.of(self.folder / entry.name)
            except NoCaption as problem:
                if self._missing_caption == "error":
                    raise ValueError(f"{self.folder / entry.name} is one of the {problem}") from None
                if self._missing_caption == "leave_out":
                    self.left_out.add(str(problem), entry.name)
                    continue
                texts = ("",)
            self._names.append([entry.name])
            self._sizes.append([str(entry.size)])
            self._captions.append(texts)
        for table, name in captions.without_picture():
            self.left_out.add(f"entries of {table} whose picture is not there", name)


def check_missing_caption(value: str) -> None:
    if value not in MISSING_CAPTION:
        raise ValueError(f"missing caption {value!r} is not one of {', '.join(MISSING_CAPTION)}")
