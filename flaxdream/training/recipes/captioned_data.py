"""The picture sets of a run on captioned data, and what there is to say of them."""

from __future__ import annotations

import jax

from flaxdream.config.captioned import CaptionedData
from flaxdream.data.folder_set import FolderSet
from flaxdream.data.folders import check_pictures
from flaxdream.data.images import BrokenPicture
from flaxdream.data.picture_set import Part, PictureSet

CHECKED_AT_MOST = 2000  # pictures that are read to the end before the start; of more, every so-many-th


def training_set(config: CaptionedData) -> PictureSet:
    """The pictures to train on. Raises ValueError if there are none or the source is not as expected."""
    assert config.train_data_dir is not None
    return FolderSet(
        config.train_data_dir,
        captions=config.captions,
        caption_column=config.caption_column,
        missing_caption=config.missing_caption,
    )


def folder_of_pictures(folder: str, config: CaptionedData, *, missing_caption: str) -> PictureSet:
    """A further folder, with captions as the training set's."""
    return FolderSet(
        folder, captions=config.captions, caption_column=config.caption_column, missing_caption=missing_caption
    )


def broken_pictures(pictures: PictureSet, num_workers: int) -> list[BrokenPicture]:
    """Pictures that cannot be read, of all or of a spread sample."""
    stride = max(1, len(pictures) // CHECKED_AT_MOST)
    return check_pictures((pictures.path(index) for index in range(0, len(pictures), stride)), num_workers=num_workers)


def without(pictures: PictureSet, broken: list[BrokenPicture]) -> PictureSet:
    """The set without the broken pictures."""
    paths = {problem.path for problem in broken}
    if not paths:
        return pictures
    return Part(pictures, [index for index in range(len(pictures)) if pictures.path(index) not in paths])


def say(lines: list[str]) -> None:
    """Prints the lines, on the first host."""
    if jax.process_index() == 0:
        for line in lines:
            print(line)
