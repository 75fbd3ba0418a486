"""Model folders with random weights: every command can be tried on them without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from flaxdream.models import build
from flaxdream.models.architectures import ARCHITECTURES, PAD_TOKENS
from flaxdream.weights.model_dir import write_model_dir
from flaxdream.weights.tokenizer import write_clip_tokenizer

NETWORKS = ("unet", "vae", "text_encoder")


def write_random_model(
    folder: str | Path, architecture: str = "tiny", *, dtype: Any = "float32", seed: int = 0
) -> None:
    """Writes a whole diffusers folder of the named architecture, its weights drawn from `seed`.

    Raises ValueError when the architecture is unknown, or the folder exists: nothing is overwritten.
    """
    folder = Path(folder)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not known. Choose one of: {', '.join(ARCHITECTURES)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; give a new folder.")
    configs = ARCHITECTURES[architecture]
    networks = {name: build(configs[name], param_dtype=dtype) for name in NETWORKS}
    keys = jax.random.split(jax.random.key(seed), len(networks))
    params = {name: network.init(key) for (name, network), key in zip(networks.items(), keys)}
    write_model_dir(
        folder,
        params=params,
        configs=configs,
        extra=lambda new: write_clip_tokenizer(new / "tokenizer", pad_token=PAD_TOKENS[architecture]),
    )
