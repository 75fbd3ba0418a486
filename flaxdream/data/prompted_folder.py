"""A folder of pictures under one prompt, as DreamBooth takes it; a PictureSet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flaxdream.data.digests import text_digest
from flaxdream.data.folders import scan_folder
from flaxdream.data.images import picture_size, read_picture
from flaxdream.data.left_out import LeftOut

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8


class PromptedFolder:
    """The folder's pictures by name, each with the prompt as its caption; sub-folders are not entered."""

    def __init__(self, folder: str | Path, prompt: str):
        """ValueError if there is no such folder, or no picture in it."""
        self.name, self._caption = str(folder), " ".join(prompt.split())
        found = scan_folder(folder)
        self._paths, self.left_out = found.pictures, LeftOut()
        for path, reason in found.skipped:
            self.left_out.add(f"{reason}s", path.name)
        self.notes = tuple(self.left_out.lines(self.name))
        if found.captions:
            self.notes += (f"{self.name}: {len(found.captions)} caption files are not used: the prompt is for all",)
        if not self._paths:
            raise ValueError("; ".join([f"{folder}: there is no picture in this folder", *self.notes]))
        sizes = (f"{path.name} {path.stat().st_size}" for path in self._paths)
        self.fingerprint = text_digest([self._caption, *sizes])

    def __len__(self) -> int:
        return len(self._paths)

    def captions(self, index: int) -> tuple[str, ...]:
        return (self._caption,)

    def path(self, index: int) -> Path:
        return self._paths[index]

    def size(self, index: int) -> tuple[int, int]:
        return picture_size(self.path(index))

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        return self.path(index), None

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return read_picture(self.path(index))
