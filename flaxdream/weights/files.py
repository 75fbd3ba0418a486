"""Which files of a folder hold a network's weights: formats, variants and shards, as diffusers names them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

SAFETENSORS, MSGPACK, TORCH = "safetensors", "msgpack", "bin"
STEMS = {  # in the order of preference
    SAFETENSORS: ("diffusion_pytorch_model", "model"),
    MSGPACK: ("diffusion_flax_model", "flax_model"),
    TORCH: ("diffusion_pytorch_model", "pytorch_model"),
}
_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|msgpack|ckpt|pt|pth|pkl|h5|tflite|onnx|onnx_data|pb|gguf|flashpack|xml)(\..*index.*\.json|\.index\..*)?"
)
_VARIANT = re.compile(r"(?:diffusion_pytorch_model|model)\.([^.]+?)(?:-\d{5}-of-\d{5})?\.safetensors")

CONVERT = (
    "PyTorch's .bin files are programs (pickles) and are not read here. Convert them once, where torch is installed: "
    'python -c "from diffusers import DiffusionPipeline as P; P.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"'
)


@dataclass(frozen=True)
class WeightFiles:
    """The files that one network is read from: one file, or shards and the index that lists them."""

    kind: str
    files: tuple[str, ...]
    index: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        return self.files if self.index is None else (self.index, *self.files)


def is_weight_file(name: str) -> bool:
    """Whether a file of a component holds weights in any format, or lists the shards of some."""
    return _WEIGHTS.fullmatch(name) is not None


def variants(names: Collection[str]) -> list[str]:
    """The variants ("fp16", "non_ema") of which safetensors files are there."""
    return sorted({match[1] for match in map(_VARIANT.fullmatch, names) if match})


def find_weights(names: Collection[str], variant: str | None, kinds: Collection[str] = STEMS) -> WeightFiles | None:
    """The weights among the files of one folder, by name alone; None when there are none of these kinds.

    Of a sharded network all files that look like its shards are taken: its index is not read here.
    """
    for kind in kinds:
        for stem in STEMS[kind]:
            found = _find(names, stem, kind, variant)
            if found:
                return found
    return None


def weight_files(folder: Path, variant: str | None) -> WeightFiles:
    """The weights of a component's folder, safetensors first, then Flax's msgpack.

    Raises ValueError that says what is there when nothing can be read, and names the shards that are missing.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else []
    found = find_weights(names, variant, (SAFETENSORS, MSGPACK))
    if found is None:
        raise ValueError(_nothing_found(folder, names, variant))
    if found.index is None:
        return found
    listed = shards_of_index(folder / found.index)
    missing = [name for name in listed if name not in names]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the {len(listed)} files that {found.index} lists: "
            f"{', '.join(missing)}. Download or copy the folder again."
        )
    return WeightFiles(found.kind, listed, found.index)


def shards_of_index(index: Path) -> tuple[str, ...]:
    """The names of the files over which an index spreads the tensors."""
    try:
        shards = tuple(sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is not an index of weight files: {error!r}. Download or copy it again.") from None
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise ValueError(f"{index} lists files that are not beside it: {', '.join(outside)}.")
    return shards


def plain_name(name: str, variant: str | None) -> str:
    """The name of a weight file or an index without its variant, so that it is found when none is asked for."""
    return name if variant is None else name.replace(f".{variant}.", ".", 1)


def _find(names: Collection[str], stem: str, kind: str, variant: str | None) -> WeightFiles | None:
    dot = "" if variant is None else f".{variant}"
    single = f"{stem}{dot}.{kind}"
    indexes = {  # now, before diffusers 0.31, and as people wrote it by hand
        f"{stem}.{kind}.index{dot}.json": None,
        f"{stem}.{kind}{dot}.index.json": None,
        f"{stem}{dot}.{kind}.index.json": None,
    }
    index = next((name for name in indexes if name in names), None)
    if index and (single not in names or stem.startswith("diffusion_")):  # diffusers takes the index, transformers not
        part, escaped = r"-\d{5}-of-\d{5}", re.escape(dot)
        shard = re.compile(rf"{stem}({escaped}{part}|{part}{escaped})\.{kind}")
        return WeightFiles(kind, tuple(sorted(name for name in names if shard.fullmatch(name))), index)
    return WeightFiles(kind, (single,)) if single in names else None


def _nothing_found(folder: Path, names: list[str], variant: str | None) -> str:
    if not folder.is_dir():
        return f"{folder} does not exist, or is not a folder; it should hold a network's weights."
    there = f"There is: {', '.join(names) or 'nothing'}."
    known = variants(names)
    if variant is not None and (known or find_weights(names, None, (SAFETENSORS, MSGPACK))):
        choices = [f"variant={name!r}" for name in known if find_weights(names, name, (SAFETENSORS,))]
        choices += ["no variant"] if find_weights(names, None, (SAFETENSORS, MSGPACK)) else []
        return f"{folder} has no weights of variant {variant!r}. {there} Choose: {' or '.join(choices) or 'none'}."
    if known:
        return f"{folder} has weights of a variant only. {there} Pass variant={known[0]!r}."
    if find_weights(names, variant, (TORCH,)) or find_weights(names, None, (TORCH,)):
        return f"{folder} has only PyTorch's .bin weights. {there} {CONVERT}"
    if any("-of-" in name for name in names):
        return f"{folder} has parts of weights but no .index.json that lists them. {there} Download or copy it again."
    expected = ", ".join(f"{stem}.{kind}" for kind in (SAFETENSORS, MSGPACK) for stem in STEMS[kind])
    return f"{folder} holds no weights that are read here. {there} Expected one of: {expected}."
