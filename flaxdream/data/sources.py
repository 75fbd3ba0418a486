"""The pictures that the data flags name, whatever they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flaxdream.data.folder_set import FolderSet
from flaxdream.data.hub_loading import is_saved, load_split
from flaxdream.data.hub_set import HubSet
from flaxdream.data.images import is_picture
from flaxdream.data.picture_set import PictureSet
from flaxdream.data.tar_index import expanded
from flaxdream.data.tar_set import TarSet, tar_files
from flaxdream.data.tfds_set import PREFIX, TfdsSet

FILES = {".parquet": "parquet", ".arrow": "arrow"}
KINDS = ("imagefolder", "webdataset", *FILES.values())


def open_pictures(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    *,
    split: str = "train",
    image_column: str = "image",
    caption_column: str = "text",
    cache_dir: str | None = None,
    captions: str = "auto",
    caption_per_line: bool = False,
    missing_caption: str = "leave_out",
    token: str | None = None,
) -> PictureSet:
    """The pictures of one split; ValueError says what is wrong with the flags or the data.

    `dataset_name` is a name on the Hub, a local folder or file, a kind ("imagefolder", "webdataset", "parquet") of what
    is in `train_data_dir`, or `tfds:NAME` for TensorFlow Datasets. `train_data_dir` alone is a folder of pictures,
    tars or parquet files, or a pattern of tars. `captions` and `caption_per_line` are those of `FolderSet`.
    """
    if dataset_name and dataset_name.startswith(PREFIX):
        return TfdsSet(
            dataset_name,
            split,
            data_dir=train_data_dir or cache_dir,
            image_column=image_column,
            caption_column=caption_column,
            missing_caption=missing_caption,
        )
    where, kind = _place(dataset_name, train_data_dir)
    if kind == "imagefolder":
        return FolderSet(
            where,
            split,
            captions=captions,
            caption_column=caption_column,
            caption_per_line=caption_per_line,
            missing_caption=missing_caption,
        )
    if kind == "webdataset":
        folder = Path(cache_dir) if cache_dir else None
        return TarSet(where, split, caption_column=caption_column, missing_caption=missing_caption, index_folder=folder)
    dataset = load_split(
        where if kind is None else kind,
        dataset_config_name,
        split=split,
        data_dir=train_data_dir if kind is None and where != train_data_dir else None,
        data_files=None if kind is None else where,
        cache_dir=cache_dir,
        token=token,
    )
    return HubSet(
        dataset, where, image_column=image_column, caption_column=caption_column, missing_caption=missing_caption
    )


def open_stream(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    *,
    split: str = "train",
    cache_dir: str | None = None,
    token: str | None = None,
) -> tuple[Any, str]:
    """`--streaming`: the IterableDataset of one split and its name, for `StreamedRows`.

    The flags are those of `open_pictures`; tars may have addresses (`https://.../{000..099}.tar`) here.
    """
    if dataset_name and dataset_name.startswith(PREFIX):
        raise ValueError(f"--streaming goes with Hugging Face data sets and tars; {dataset_name} is read at random")
    where, kind = _place(dataset_name, train_data_dir)
    if kind == "imagefolder":
        raise ValueError(
            f"--streaming: {where} is a folder of pictures, which is read at random; leave --streaming out"
        )
    files: str | list[str] | None = None if kind is None else where
    if kind == "webdataset":
        files = list(expanded(where)) if "://" in where else [str(path) for path in tar_files(where, split)]
    dataset = load_split(
        where if kind is None else kind,
        dataset_config_name,
        split=split if kind is None else "train",
        data_dir=train_data_dir if kind is None and where != train_data_dir else None,
        data_files=files,
        cache_dir=cache_dir,
        token=token,
        streaming=True,
    )
    return dataset, where


def _place(dataset_name: str | None, train_data_dir: str | None) -> tuple[str, str | None]:
    """Where the data lies and of which of KINDS it is; None is for `datasets` to find out."""
    if dataset_name in KINDS:
        if not train_data_dir:
            raise ValueError(f"--dataset_name {dataset_name} is a kind of data; --train_data_dir says where it is")
        is_file = Path(train_data_dir).is_file()
        return train_data_dir, dataset_name if is_file or dataset_name not in FILES.values() else None
    where = dataset_name or train_data_dir
    if not where:
        raise ValueError("there is no data: give --train_data_dir FOLDER or --dataset_name NAME")
    if where.endswith(".tar") or "{" in where or "*" in where:
        return where, "webdataset"
    if Path(where).is_file():
        if Path(where).suffix not in FILES:
            raise ValueError(f"{where} is a file; expected a folder, *.tar, {' or '.join('*' + ext for ext in FILES)}")
        return where, FILES[Path(where).suffix]
    if Path(where).is_dir():
        return where, _kind_of_folder(where)
    if dataset_name is None:
        raise ValueError(f"--train_data_dir {where}: there is no such folder")
    return where, None


def _kind_of_folder(folder: str) -> str | None:
    """By the first file that can be data; a folder without any is one of pictures, which says what is missing."""
    if is_saved(folder):
        return None
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_picture(name):
                return "imagefolder"
            if name.endswith(".tar"):
                return "webdataset"
            if name.endswith(tuple(FILES)) and name != "metadata.parquet":
                return None
    return "imagefolder"
