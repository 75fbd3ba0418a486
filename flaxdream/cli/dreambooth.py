"""`flaxdream dreambooth`: a folder of pictures in, a personalised model out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flaxdream.cli.flags import parse_training
from flaxdream.config import DreamBoothConfig, dreambooth_notes, dreambooth_problems


def main(argv: Sequence[str]) -> int:
    config, notes, sources = parse_training(DreamBoothConfig, argv, "dreambooth", dreambooth_problems)
    import jax

    if config.compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.compilation_cache_dir).expanduser()))
    from flaxdream.training.checkpoints import CheckpointNotSavedError
    from flaxdream.training.loop import DivergedError
    from flaxdream.training.recipes.dreambooth import train_dreambooth

    for line in (*sources, *notes, *dreambooth_notes(config)):
        print(line)
    try:
        return train_dreambooth(config)
    except (DivergedError, CheckpointNotSavedError) as error:
        print(f"flaxdream dreambooth: {error}", file=sys.stderr)
        return 1
