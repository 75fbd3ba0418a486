"""Pictures of a TensorFlow Datasets set, read at random from ArrayRecord files without TensorFlow; a PictureSet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxdream.data.captions import texts_of
from flaxdream.data.digests import text_digest
from flaxdream.data.folder_set import check_missing_caption
from flaxdream.data.folder_tree import SPLITS
from flaxdream.data.images import BrokenPicture, picture_size, read_picture

if TYPE_CHECKING:
    from jaxtyping import UInt8

PREFIX = "tfds:"


class TfdsSet:
    """One split of `tfds:NAME`, `tfds:NAME/CONFIG:VERSION` or of a folder with a prepared set.

    A caption is a text, a list of texts, a class label (its name), or a field inside another (`captions/text` of
    coco_captions). Records are whole: captions are not looked at before they are needed. One that turns out to have
    none counts as a broken picture, or as an empty prompt if `missing_caption` is "empty".
    """

    notes = ()

    def __init__(
        self,
        name: str,
        split: str = "train",
        *,
        data_dir: str | None = None,
        image_column: str = "image",
        caption_column: str = "text",
        missing_caption: str = "leave_out",
    ):
        """ValueError if the set is not there or its columns are others; it is prepared first where that can be done."""
        check_missing_caption(missing_caption)
        self.name, self._image, self._caption = name, image_column, caption_column
        self._goes_on_without = missing_caption == "empty"
        builder = _builder(name, data_dir)
        features, known = builder.info.features, list(builder.info.splits)
        _check_columns(features, name, image_column, caption_column)
        self._labels = getattr(_feature(features, caption_column), "names", None)
        found = [alias for alias in (split, *SPLITS.get(split, ())) if alias in known]
        if not found:
            raise ValueError(f"{name} has no split {split!r}; it has {', '.join(known)}")
        self._records = _records(builder, found[0], features, name)
        info = builder.info.splits[found[0]]
        self.fingerprint = text_digest(map(str, (builder.info.full_name, found[0], info.shard_lengths, info.num_bytes)))

    def __len__(self) -> int:
        return len(self._records)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions(self._records[index], index) or ("",)

    def path(self, index: int) -> Path:
        return Path(f"{self.name}/record {index}")

    def size(self, index: int) -> tuple[int, int]:
        return picture_size(self.path(index), self._records[index][self._image])

    def stored(self, index: int) -> tuple[Path, bytes | None]:
        record = self._records[index]
        if not self._goes_on_without and not self._captions(record, index):
            raise BrokenPicture(self.path(index), f"its {self._caption!r} holds no caption")
        return self.path(index), record[self._image]

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return read_picture(*self.stored(index))

    def _captions(self, record: Any, index: int) -> tuple[str, ...]:
        value = record
        for part in self._caption.split("/"):
            value = value[part]
        if self._labels is not None:
            value = self._labels[int(value)] if int(value) >= 0 else None
        texts = [value] if isinstance(value, bytes | str) or value is None else list(value)
        where = f"{self.path(index)}, {self._caption}"
        return texts_of([text.decode() if isinstance(text, bytes) else text for text in texts], where)


def _builder(name: str, data_dir: str | None) -> Any:
    """The set's builder, its files prepared as ArrayRecord."""
    import tensorflow_datasets as tfds

    plain = name.removeprefix(PREFIX)
    if (Path(plain) / "dataset_info.json").is_file():
        return tfds.builder_from_directory(plain)
    try:
        builder = tfds.builder(plain, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        where = f" in {data_dir}" if data_dir else ""
        raise ValueError(f"{name}: TensorFlow Datasets knows no set of this name, and there is none{where}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not builder.is_prepared():
        _prepare(builder, name, plain)
    return builder


def _prepare(builder: Any, name: str, plain: str) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # every set brings a program of its own
        raise ValueError(
            f"{name} is not in {builder.data_dir} and cannot be prepared here ({type(error).__name__}: {error}). "
            f"Prepare it once where TensorFlow is installed: tfds build {plain} --file_format=array_record"
        ) from error


def _records(builder: Any, split: str, features: Any, name: str) -> Any:
    """Records by index, pictures left as the bytes that they are stored as."""
    import tensorflow_datasets as tfds

    pictures = [key for key in features if isinstance(features[key], tfds.features.Image)]
    try:
        return builder.as_data_source(split=split, decoders={key: tfds.decode.SkipDecoding() for key in pictures})
    except NotImplementedError as error:
        kind = builder.info.file_format.value
        raise ValueError(
            f"{name} in {builder.data_dir} is stored as {kind}, which cannot be read at random; prepare it as "
            "ArrayRecord: tfds build --file_format=array_record, or tfds convert_format"
        ) from error


def _check_columns(features: Any, name: str, image_column: str, caption_column: str) -> None:
    import tensorflow_datasets as tfds

    for flag, column in (("--image_column", image_column), ("--caption_column", caption_column)):
        if _feature(features, column) is None:
            raise ValueError(f"{name} has no column {column!r} ({flag}); it has {', '.join(_columns(features))}")
    if image_column not in features or not isinstance(features[image_column], tfds.features.Image):
        raise ValueError(
            f"{name}: column {image_column!r} holds {_feature(features, image_column)}; expected a picture"
        )
    caption = _feature(features, caption_column)
    inside = getattr(caption, "feature", caption)
    is_text = isinstance(inside, tfds.features.Tensor) and np.dtype(inside.np_dtype) == object
    if not is_text and not isinstance(caption, tfds.features.ClassLabel):
        raise ValueError(
            f"{name}: column {caption_column!r} holds {caption}; expected text, a list of texts or a label"
        )


def _feature(features: Any, column: str) -> Any:
    """The feature at `a/b`; None if there is none."""
    for part in column.split("/"):
        features = getattr(features, "feature", features)  # what a sequence is of
        if not hasattr(features, "keys") or part not in features:
            return None
        features = features[part]
    return features


def _columns(features: Any, before: str = "") -> list[str]:
    """Every name that can be a column, those inside others too."""
    found = []
    for key in features:
        inside = getattr(features[key], "feature", features[key])
        found += _columns(inside, f"{before}{key}/") if hasattr(inside, "keys") else [f"{before}{key}"]
    return found
