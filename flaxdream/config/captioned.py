"""Where captioned pictures come from; shared by every command that trains on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxdream.config.checks import below


@dataclass(frozen=True)
class CaptionedData:
    """A set of pictures with captions."""

    dataset_name: str | None = None
    """A data set on the Hugging Face Hub, a local folder or file, `tfds:NAME` for TensorFlow Datasets, or a kind
    (imagefolder, webdataset, parquet, arrow) of what is in train_data_dir."""
    dataset_config_name: str | None = None
    """The data set's configuration."""
    dataset_split: str = "train"
    """The split to train on."""
    train_data_dir: str | None = None
    """Folder of pictures with captions (metadata.jsonl or .csv, or text files beside them), of tars or of parquet
    files; or a pattern of tars."""
    image_column: str = "image"
    """The column of pictures."""
    caption_column: str = "text"
    """The key or column of captions; a list in it is several captions, of which each step draws one."""
    captions: Literal["auto", "metadata", "txt", "filename"] = "auto"
    """Where a folder's captions are: auto takes the metadata file where there is one, else text files."""
    caption_per_line: bool = False
    """Each line of a text file is a caption of its own, of which each step draws one."""
    missing_caption: Literal["leave_out", "empty", "error"] = "leave_out"
    """A picture without a caption is left out and counted, trained on the empty prompt, or an error."""
    max_train_samples: int | None = None
    """Train on so many pictures, drawn by the seed."""


def captioned_problems(config: CaptionedData) -> list[str]:
    """Everything wrong with these settings."""
    problems = below(config, ("max_train_samples",), 1)
    if not config.train_data_dir and not config.dataset_name:
        problems.append(
            "There is no data: give --train_data_dir, a folder of captioned pictures, or --dataset_name, a data set."
        )
    return problems
