"""What `flaxdream export` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ExportConfig:
    """Write a checkpoint of a training as a model folder that diffusers and flaxdream load."""

    checkpoint: str | None = None
    """The checkpoint, such as my-dog/checkpoint-500; with run its name is enough."""
    run: str | None = None
    """The output_dir of the training; its newest checkpoint is taken if none is named."""
    output_dir: str = ""
    """Folder to write; a new one, or that of an earlier export, which is replaced."""
    ema: bool = True
    """Write the moving average where the run keeps one; no_ema writes the weights themselves."""
    weights_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of UNet, text encoder and VAE; if not given what trained is written as it is kept, the rest byte for byte."""
    pretrained_model_name_or_path: str | None = None
    """The model that the training started from, if it is no longer where the training found it."""
    hub_token: str | None = None
    """Token for a gated or private starting model; the one of `hf auth login` if not given."""
    cache_dir: str | None = None
    """Where downloads are kept; that of the training if not given."""


def export_problems(config: ExportConfig) -> list[str]:
    """Everything wrong with the settings that can be said without opening a file."""
    problems = []
    if not config.checkpoint and not config.run:
        problems.append(
            "--checkpoint is missing: a checkpoint such as my-dog/checkpoint-500; or --run my-dog for the newest one."
        )
    if not config.output_dir:
        problems.append("--output_dir is missing: the folder to write.")
    return problems
