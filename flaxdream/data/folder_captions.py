"""The captions of a picture in a folder: from a metadata file, text files beside it, or its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flaxdream.data.captions import caption_from_name
from flaxdream.data.folder_metadata import metadata_file, read_metadata
from flaxdream.data.folders import caption_files

SOURCES = {
    "auto": "the metadata file where there is one, else text files beside the pictures",
    "metadata": "metadata.jsonl, .csv or .parquet in the picture's folder or one above it",
    "txt": "image.txt, image.caption or image.png.txt beside image.png",
    "filename": "the file's name",
}


class NoCaption(Exception):  # noqa: N818
    """Why a picture has none, as it stands after a number: "3 pictures without caption"."""


class FolderCaptions:
    """Finds captions below `root`, each picture's once; the metadata files are read once."""

    def __init__(self, root: Path, source: str, caption_column: str, caption_per_line: bool):
        if source not in SOURCES:
            raise ValueError(f"caption source {source!r} is not one of {', '.join(SOURCES)}")
        self.root, self.source, self.column, self.per_line = root, source, caption_column, caption_per_line
        self._nearest: dict[Path, Path | None] = {}  # of a folder, its metadata file
        self._tables: dict[Path, dict[str, tuple[str, ...]]] = {}

    def of(self, picture: Path) -> tuple[str, ...]:
        """One caption or more; else NoCaption."""
        if self.source == "filename":
            return _from_name(picture)
        if self.source != "txt" and (metadata := self._metadata_above(picture.parent)) is not None:
            return self._from_metadata(metadata, picture)
        if self.source == "metadata":
            raise NoCaption("pictures without a metadata file in their folder or above it")
        return self._from_text(picture)

    def without_picture(self) -> Iterator[tuple[str, str]]:
        """Of all metadata files read: the file's name and the picture that it lists and that is not there."""
        for metadata, table in self._tables.items():
            yield from ((metadata.name, name) for name in table if not (metadata.parent / name).exists())

    def _metadata_above(self, folder: Path) -> Path | None:
        if folder not in self._nearest:
            found = metadata_file(folder)
            if found is None and folder != self.root:
                found = self._metadata_above(folder.parent)
            self._nearest[folder] = found
        return self._nearest[folder]

    def _from_metadata(self, metadata: Path, picture: Path) -> tuple[str, ...]:
        if metadata not in self._tables:
            self._tables[metadata] = read_metadata(metadata, self.column)
        texts = self._tables[metadata].pop(picture.relative_to(metadata.parent).as_posix(), None)
        if texts is None:
            raise NoCaption(f"pictures that {metadata.name} does not list")
        if not texts:
            raise NoCaption(f"pictures whose {self.column!r} in {metadata.name} is empty")
        return texts

    def _from_text(self, picture: Path) -> tuple[str, ...]:
        beside = [path for path in caption_files(picture) if path.is_file()]
        if not beside:
            raise NoCaption("pictures without caption")
        if len(beside) > 1:
            raise NoCaption("pictures with two caption files")
        try:
            text = beside[0].read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise NoCaption("pictures with a caption that is not UTF-8") from None
        except OSError as error:
            raise NoCaption(f"pictures with a caption that cannot be read ({error.strerror})") from None
        lines = text.splitlines() if self.per_line else [text]
        captions = tuple(collapsed for line in lines if (collapsed := " ".join(line.split())))
        if not captions:
            raise NoCaption("pictures with an empty caption file")
        return captions


def _from_name(picture: Path) -> tuple[str, ...]:
    try:
        return (caption_from_name(picture),)
    except ValueError:
        raise NoCaption("pictures with no words in their name") from None
