"""`flaxdream dreambooth`: a folder of pictures in, a personalised model out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flaxdream.cli.flags import parse_training
from flaxdream.config import DreamBoothConfig, dreambooth_notes, dreambooth_problems


def main(argv: Sequence[str]) -> int:
    config, notes, sources = parse_training(DreamBoothConfig, argv, "dreambooth", dreambooth_problems)
    import jax

    if config.compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.compilation_cache_dir).expanduser()))
    from flaxdream.training.recipes.dreambooth import train_dreambooth

    for line in (*sources, *notes, *dreambooth_notes(config)):
        print(line)
    return train_dreambooth(config)
