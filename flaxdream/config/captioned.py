"""Where captioned pictures come from; shared by every command that trains on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxdream.config.checks import below


@dataclass(frozen=True)
class CaptionedData:
    """A set of pictures with captions."""

    train_data_dir: str | None = None
    """Folder of pictures with captions: metadata.jsonl or metadata.csv, text files beside them, or file names."""
    captions: Literal["auto", "metadata", "txt", "filename"] = "auto"
    """Where the captions of train_data_dir are; auto takes what is there, in this order, but not file names."""
    caption_column: str = "text"
    """The key or column of captions."""
    missing_caption: Literal["leave_out", "empty", "error"] = "leave_out"
    """A picture without a caption is left out and counted, trained on the empty prompt, or an error."""
    max_train_samples: int | None = None
    """Train on so many pictures, drawn by the seed."""


def captioned_problems(config: CaptionedData) -> list[str]:
    """Everything wrong with these settings."""
    problems = below(config, ("max_train_samples",), 1)
    if not config.train_data_dir:
        problems.append("--train_data_dir is missing: the folder with the captioned pictures.")
    return problems
