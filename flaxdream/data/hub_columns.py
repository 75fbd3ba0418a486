"""Picture and captions in a row of a Hugging Face data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxdream.data.captions import texts_of
from flaxdream.data.images import BrokenPicture


class Columns:
    """The two columns that training reads, checked; ValueError lists those that there are."""

    def __init__(self, features: Any, name: str, image_column: str, caption_column: str):
        self.name, self.image, self.caption = name, image_column, caption_column
        for flag, column in (("--image_column", image_column), ("--caption_column", caption_column)):
            if column not in features:
                raise ValueError(f"{name} has no column {column!r} ({flag}); it has {', '.join(features)}")
        if not _holds_pictures(features[image_column]):
            raise ValueError(
                f"{name}: column {image_column!r} holds {features[image_column]}; expected pictures, bytes or paths"
            )
        self._is_image = type(features[image_column]).__name__ == "Image"
        self._labels = getattr(features[caption_column], "names", None)  # of classes, where there are no captions

    def undecoded(self, dataset: Any) -> Any:
        """The data set with pictures as the bytes or paths that they are stored as."""
        import datasets

        return dataset.cast_column(self.image, datasets.Image(decode=False)) if self._is_image else dataset

    def captions(self, value: Any, where: str) -> tuple[str, ...]:
        """The captions in a cell, () if there is none; a class label counts as its name."""
        if self._labels and isinstance(value, int):
            value = self._labels[value] if value >= 0 else None
        return texts_of(value, where)


def _holds_pictures(feature: Any) -> bool:
    if type(feature).__name__ == "Image":
        return True
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", "") in ("binary", "large_binary", "string", "large_string")


def stored(value: Any, key: Path) -> tuple[Path, bytes | None]:
    """The file of a cell, or its key and the bytes that the cell holds; else BrokenPicture."""
    if isinstance(value, dict):
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if isinstance(value, bytes):
        return key, value
    if not value:
        raise BrokenPicture(key, "the row holds no picture")
    if "://" in value:
        raise BrokenPicture(key, f"the row holds the address {value}, not the picture; download the pictures first")
    return Path(value), None
