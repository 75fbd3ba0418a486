"""`flaxdream dreambooth`: a folder of pictures in, a personalised model out."""

from __future__ import annotations

from collections.abc import Sequence

from flaxdream.cli.training import train
from flaxdream.config import DreamBoothConfig, dreambooth_notes, dreambooth_problems


def main(argv: Sequence[str]) -> int:
    recipe = "flaxdream.training.recipes.dreambooth:train_dreambooth"
    return train(argv, "dreambooth", DreamBoothConfig, dreambooth_problems, dreambooth_notes, recipe)
