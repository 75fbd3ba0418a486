"""`flaxdream text_to_image`: captioned pictures in, a model of their kind out."""

from __future__ import annotations

from collections.abc import Sequence

from flaxdream.cli.training import train
from flaxdream.config import TextToImageConfig, text_to_image_notes, text_to_image_problems


def main(argv: Sequence[str]) -> int:
    recipe = "flaxdream.training.recipes.text_to_image:train_text_to_image"
    return train(argv, "text_to_image", TextToImageConfig, text_to_image_problems, text_to_image_notes, recipe)
