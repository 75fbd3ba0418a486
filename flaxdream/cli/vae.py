"""`flaxdream vae`: a model's VAE trained on pictures."""

from __future__ import annotations

from collections.abc import Sequence

from flaxdream.cli.training import train
from flaxdream.config import VaeConfig, vae_notes, vae_problems


def main(argv: Sequence[str]) -> int:
    recipe = "flaxdream.training.recipes.vae:train_vae"
    return train(argv, "vae", VaeConfig, vae_problems, vae_notes, recipe)
