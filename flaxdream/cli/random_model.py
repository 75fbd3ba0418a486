"""`flaxdream random_model`: a model folder with random weights."""

from __future__ import annotations

from collections.abc import Sequence

from flaxdream.cli.flags import parse
from flaxdream.config import RandomModelConfig


def main(argv: Sequence[str]) -> int:
    config: RandomModelConfig = parse(RandomModelConfig, argv, "random_model")
    if not config.output_dir:
        raise ValueError("--output_dir is missing: the folder to write")
    from flaxdream.weights.random_model import write_random_model

    write_random_model(config.output_dir, config.architecture, dtype=config.weights_dtype, seed=config.seed)
    print(f"{config.output_dir}: a {config.architecture} model with random weights; its pictures are noise")
    return 0
