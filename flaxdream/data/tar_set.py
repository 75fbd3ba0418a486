"""Pictures in tar files as WebDataset writes them, read at random; a PictureSet."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flaxdream.data.digests import text_digest
from flaxdream.data.folder_set import check_missing_caption
from flaxdream.data.folder_tree import SPLITS, split_folder
from flaxdream.data.images import BrokenPicture, picture_size, read_picture
from flaxdream.data.left_out import LeftOut
from flaxdream.data.tar_index import Sample, expanded, tar_samples
from flaxdream.data.text_table import TextTable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

JPEG = b"\xff\xd8"
HEAD = 2**16  # bytes in which a JPEG says its size and how it is turned, nearly always


class TarSet:
    """The samples of tar files that have a picture and a caption (`.txt`, `.caption` or `.json`).

    The tars lie on this machine and are not compressed: an index of offsets makes them random-access.
    """

    def __init__(
        self,
        tars: str | Path,
        split: str = "train",
        *,
        caption_column: str = "text",
        missing_caption: str = "leave_out",
        index_folder: Path | None = None,
        num_workers: int = 4,
    ):
        """`tars` is a file, a folder of `*.tar`, or a pattern (`data/{00000..00099}.tar`, `data/*.tar`).

        `caption_column` is the key in the `.json` files. Indices are kept in `index_folder`, read with so many threads.
        """
        check_missing_caption(missing_caption)
        self.name, self.tars, self.left_out = str(tars), tar_files(str(tars), split), LeftOut()
        self._keys, self._captions = TextTable(), TextTable()
        self._tar, self._offsets, self._sizes = array("i"), array("q"), array("q")
        read: Callable[[Path], list[Sample]] = partial(tar_samples, caption_column=caption_column, folder=index_folder)
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            for number, samples in enumerate(pool.map(read, self.tars)):
                for sample in samples:
                    self._add(number, sample, missing_caption)
        self.notes = tuple(self.left_out.lines(self.name))
        if not len(self):
            raise ValueError("; ".join([f"{self.name}: there is no picture with a caption", *self.notes]))
        self.fingerprint = text_digest(self._content())

    def __len__(self) -> int:
        return len(self._keys)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[index]

    def path(self, index: int) -> Path:
        """The tar and the member in it."""
        return self.tars[self._tar[index]] / self._keys[index][0]

    def size(self, index: int) -> tuple[int, int]:
        head = self._bytes(index, min(HEAD, self._sizes[index]))
        if len(head) == self._sizes[index]:
            return picture_size(self.path(index), head)
        if head.startswith(JPEG):
            try:
                return picture_size(self.path(index), head)
            except BrokenPicture:  # the size stands further on
                pass
        return picture_size(*self.stored(index))

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        return self.path(index), self._bytes(index, self._sizes[index])

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return read_picture(*self.stored(index))

    def _bytes(self, index: int, count: int) -> bytes:
        try:
            with self.tars[self._tar[index]].open("rb") as file:
                file.seek(self._offsets[index])
                return file.read(count)
        except OSError as error:
            raise BrokenPicture(self.path(index), f"the tar cannot be read: {error.strerror}") from error

    def _add(self, tar: int, sample: Sample, missing_caption: str) -> None:
        texts, where = sample.captions, f"{self.tars[tar].name}/{sample.key}"
        if not sample.picture:
            self.left_out.add("samples without picture", where)
            return
        if not texts and missing_caption == "error":
            raise ValueError(f"{self.tars[tar]}: sample {sample.key} has no caption")
        if not texts and missing_caption == "leave_out":
            self.left_out.add("pictures without caption", where)
            return
        self._keys.append([sample.picture])
        self._captions.append(texts or ("",))
        self._tar.append(tar)
        self._offsets.append(sample.offset)
        self._sizes.append(sample.size)

    def _content(self) -> Iterator[str]:
        for name, texts, size in zip(self._keys, self._captions, self._sizes):
            yield from (*name, *texts, str(size))


def tar_files(tars: str, split: str) -> list[Path]:
    """The tars of a split, by name; ValueError if there is none or one is missing.

    Of a folder, those in the sub-folder of the split; else those with the split in their name (`val-0001.tar`), or, for
    "train", those with no other split in theirs.
    """
    if "://" in tars or tars.startswith("pipe:"):
        raise ValueError(
            f"{tars}: tars are read at random and must lie on this machine; download them, or use --streaming"
        )
    if Path(tars).is_dir():
        folder, _ = split_folder(Path(tars), split) if _has_split_folder(Path(tars), split) else (Path(tars), ())
        found = sorted(folder.glob("*.tar"))
        if folder == Path(tars):
            found = [path for path in found if _is_of(path.stem, split)]
        if not found:
            raise ValueError(f"{folder}: there is no tar file of the {split} split in this folder")
        return found
    found = []
    for name in expanded(tars):
        matching = sorted(Path().glob(name)) if "*" in name and not Path(name).is_absolute() else [Path(name)]
        if "*" in name and Path(name).is_absolute():
            matching = sorted(Path("/").glob(name.lstrip("/")))
        missing = [path for path in matching if not path.is_file()]
        if not matching or missing:
            raise ValueError(f"{missing[0] if missing else name}: there is no such tar file")
        found += matching
    return found


def _has_split_folder(folder: Path, split: str) -> bool:
    return any((folder / name).is_dir() for name in SPLITS.get(split, ()))


def _is_of(name: str, split: str) -> bool:
    words = set(re.split(r"[^a-z]+", name.lower()))
    named = {other for other, names in SPLITS.items() if words & set(names)}
    return split in named or (split == "train" and not named)
