"""CLIP tokenizers: read from a model folder, or written anew from the vocabulary that ships inside."""

from __future__ import annotations

import gzip
import json
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # jax is not needed to read a prompt
    from flaxdream.arrays import Int

logger = logging.getLogger(__name__)

VOCABULARY = Path(__file__).parent.parent / "assets/clip_vocabulary/bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SIZE = 49_408
START, END = "<|startoftext|>", "<|endoftext|>"
ONE_AT_A_TIME = threading.Lock()  # a tokenizer is set to a length and then used: two threads would mix these up


def read_tokenizer(folder: str | Path) -> Any:
    """The `transformers.CLIPTokenizer` of a `tokenizer/` folder, without torch and without network.

    Reads the files of old models (vocab.json, merges.txt) and of new ones (tokenizer.json).
    Raises ValueError when the folder holds neither.
    """
    folder = Path(folder)
    old, new = ("vocab.json", "merges.txt"), ("tokenizer.json",)
    if not any(all((folder / name).is_file() for name in names) for names in (old, new)):
        raise ValueError(
            f"{folder} holds no tokenizer: expected vocab.json and merges.txt, or tokenizer.json. "
            "Copy the tokenizer/ folder of the model that this one was made from."
        )
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it says at import that torch is missing
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


def clip_tokenizer() -> Any:
    """The tokenizer of OpenAI's CLIP, as SD 1.x has it, from the vocabulary that ships inside."""
    with tempfile.TemporaryDirectory() as folder:
        write_clip_tokenizer(folder)
        return read_tokenizer(folder)


def tokenize(tokenizer: Any, prompts: Sequence[str], *, warn: bool = True) -> Int[np.ndarray, "b s"]:
    """Token ids of each prompt, padded and cut to the tokenizer's length (77 for CLIP).

    What is cut off is named in a warning, as diffusers does, if `warn` is set.
    """
    length = tokenizer.model_max_length
    for prompt, cut in truncated(tokenizer, prompts) if warn else ():
        logger.warning("The prompt %r is longer than %d tokens; this part of it has no effect: %r", prompt, length, cut)
    with ONE_AT_A_TIME:
        rows = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True)
    return np.asarray(rows["input_ids"], np.int32)


def truncated(tokenizer: Any, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """The prompts that are too long, each with its part that does not fit."""
    length, found = tokenizer.model_max_length, []
    for prompt in prompts:
        if len(prompt.encode("utf-8")) < length - 2:  # no token is shorter than a byte
            continue
        with ONE_AT_A_TIME:
            ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        if len(ids) > length:
            found.append((prompt, tokenizer.decode(ids[length - 1 : -1])))
    return found


def write_clip_tokenizer(folder: str | Path, *, pad_token: str = END) -> None:
    """Writes the tokenizer of OpenAI's CLIP in the old layout, which every version of transformers reads.

    `pad_token` is the end token for SD 1.x and "!" (id 0) for SD 2.x and SDXL's second encoder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges()
    vocabulary = {token: index for index, token in enumerate(_tokens(merges))}
    assert len(vocabulary) == VOCABULARY_SIZE
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")


def _merges() -> list[tuple[str, str]]:
    """The byte-pair merges in order. The file holds more than CLIP uses: it takes what fits its vocabulary."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    count = VOCABULARY_SIZE - 2 * 256 - 2  # each byte twice (inside a word, at its end), and two special tokens
    return [(left, right) for left, right in (line.split() for line in lines[1 : 1 + count])]


def _tokens(merges: list[tuple[str, str]]) -> list[str]:
    """All tokens in the order of their ids: bytes, bytes that end a word, merges, start, end."""
    characters = _byte_characters()
    return [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges), START, END]


def _byte_characters() -> list[str]:
    """A printable character for each byte: itself where it is one, else the next free one from 256 up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
