"""A Stable Diffusion of a few ten thousand parameters, for tests that start the whole command many times."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from flaxdream.models import build
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.weights.model_dir import write_model_dir
from flaxdream.weights.tokenizer import END, START

_TINY = ARCHITECTURES["tiny"]
WORDS = 514  # every byte inside and at the end of a word, start and end
CONFIGS = _TINY | {
    "unet": _TINY["unet"]
    | {
        "sample_size": 8,
        "block_out_channels": [16],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
        "cross_attention_dim": 16,
    },
    "vae": _TINY["vae"]
    | {
        "sample_size": 16,
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": _TINY["text_encoder"]
    | {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": WORDS},
}
DOWNSCALE = 2  # pixels of a latent


def write_smallest_model(folder: Path) -> None:
    """The model with random weights; its tokenizer spells."""
    networks = {name: build(CONFIGS[name]) for name in ("unet", "vae", "text_encoder")}
    params = {name: network.init(jax.random.key(seed)) for seed, (name, network) in enumerate(networks.items())}
    write_model_dir(
        folder, params=params, configs=CONFIGS, extra=lambda new: _write_spelling_tokenizer(new / "tokenizer")
    )


def _write_spelling_tokenizer(folder: Path) -> None:
    folder.mkdir()
    characters = [chr(code) for code in range(33, 127)]
    characters += [chr(256 + code) for code in range(256 - len(characters))]
    tokens = [*characters, *(f"{character}</w>" for character in characters), START, END]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
