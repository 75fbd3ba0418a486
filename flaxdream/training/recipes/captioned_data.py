"""The picture sets of a run on captioned data, and what there is to say of them."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from flaxdream.config.captioned import CaptionedData
from flaxdream.data.images import BrokenPicture
from flaxdream.data.picture_set import Part, PictureSet, drawn_samples
from flaxdream.data.sources import open_pictures, open_stream

CHECKED_AT_MOST = 2000  # pictures that are read to the end before the start; of more, every so-many-th


class Stream(NamedTuple):
    """What `StreamedRows` reads."""

    dataset: Any  # a datasets.IterableDataset
    name: str


def training_set(
    config: CaptionedData, seed: int, *, token: str | None = None, cache_dir: str | None = None
) -> PictureSet:
    """The pictures to train on. Raises ValueError if there are none or the source is not as expected."""
    return drawn_samples(_opened(config, config.dataset_split, token, cache_dir), config.max_train_samples, seed)


def split_of(
    config: CaptionedData, split: str, *, token: str | None = None, cache_dir: str | None = None
) -> PictureSet:
    """Another split of the same data."""
    return _opened(config, split, token, cache_dir)


def stream_of(config: CaptionedData, *, token: str | None = None, cache_dir: str | None = None) -> Stream:
    """The data to train on as a stream. Raises ValueError if they cannot be one."""
    return Stream(
        *open_stream(
            config.dataset_name,
            config.dataset_config_name,
            config.train_data_dir,
            split=config.dataset_split,
            cache_dir=cache_dir,
            token=token,
        )
    )


def _opened(config: CaptionedData, split: str, token: str | None, cache_dir: str | None) -> PictureSet:
    return open_pictures(
        config.dataset_name,
        config.dataset_config_name,
        config.train_data_dir,
        split=split,
        image_column=config.image_column,
        caption_column=config.caption_column,
        cache_dir=cache_dir,
        captions=config.captions,
        caption_per_line=config.caption_per_line,
        missing_caption=config.missing_caption,
        token=token,
    )


def folder_of_pictures(folder: str, config: CaptionedData, *, missing_caption: str) -> PictureSet:
    """A further folder, with captions as the training set's."""
    return open_pictures(
        train_data_dir=folder,
        image_column=config.image_column,
        caption_column=config.caption_column,
        captions=config.captions,
        caption_per_line=config.caption_per_line,
        missing_caption=missing_caption,
    )


def broken_pictures(pictures: PictureSet, num_workers: int) -> dict[int, BrokenPicture]:
    """Pictures that cannot be read, by index, of all or of a spread sample."""
    stride = max(1, len(pictures) // CHECKED_AT_MOST)
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        indices = range(0, len(pictures), stride)
        found = zip(indices, pool.map(lambda index: _broken(pictures, index), indices), strict=True)
        return {index: problem for index, problem in found if problem is not None}


def _broken(pictures: PictureSet, index: int) -> BrokenPicture | None:
    try:
        pictures.read(index)
    except BrokenPicture as problem:
        problem.__traceback__ = None  # else it holds the decoder's buffers
        return problem
    return None


def without(pictures: PictureSet, broken: Collection[int]) -> PictureSet:
    """The set without the broken pictures."""
    if not broken:
        return pictures
    return Part(pictures, [index for index in range(len(pictures)) if index not in broken])


def say(lines: list[str]) -> None:
    """Prints the lines, on the first host."""
    if jax.process_index() == 0:
        for line in lines:
            print(line)
