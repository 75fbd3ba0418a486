"""`flaxdream cache`: the latents and text states of a text-to-image training, made ahead of it."""

from __future__ import annotations

from collections.abc import Sequence

from flaxdream.cli.training import train
from flaxdream.config import TextToImageConfig, text_to_image_notes, text_to_image_problems


def main(argv: Sequence[str]) -> int:
    recipe = "flaxdream.training.recipes.text_to_image:fill_cache"
    return train(argv, "cache", TextToImageConfig, text_to_image_problems, text_to_image_notes, recipe)
