"""Components that a run did not change: from the source folder into the new one, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxdream.weights import files, names
from flaxdream.weights.msgpack import open_msgpack
from flaxdream.weights.safetensors import Entry, write_entries
from flaxdream.weights.tensors import Tensor, contiguous

CONFIG_NAMES = ("scheduler_config.json", "config.json")
_ONLY_FLAX = ("split_head_dim", "use_memory_efficient_attention")  # how it computed, not what


def carry(old: Path, new: Path, variant: str | None, *, skip_weights: bool, skip_config: bool) -> None:
    """Copies a component's files, and of its weights those that would be read.

    Copies, not hard links: whoever opens a linked file for writing would change the source model too.
    """
    if not old.is_dir():
        return
    new.mkdir()
    present = file_names(old)
    weights = [name for name in present if files.is_weight_file(name)]
    for name in present:
        if name in weights or (skip_config and name in CONFIG_NAMES):
            continue
        shutil.copyfile(old / name, new / name)
        if name in CONFIG_NAMES:
            _drop_flax(new / name)
    if skip_weights:
        return
    chosen, chosen_variant = _carried_weights(present, variant)
    if chosen is not None and chosen.kind == files.MSGPACK:
        library = "diffusers" if chosen.files[0].startswith("diffusion_") else "transformers"
        _convert([old / name for name in chosen.files], new / weights_name(library))
    elif chosen is not None:
        for name in chosen.files:
            # Shards keep their names, by which the index lists them.
            shutil.copyfile(old / name, new / (name if chosen.index else files.plain_name(name, chosen_variant)))
        if chosen.index:
            shutil.copyfile(old / chosen.index, new / files.plain_name(chosen.index, chosen_variant))
    else:
        for name in weights:
            shutil.copyfile(old / name, new / name)


def _carried_weights(present: list[str], variant: str | None) -> tuple[files.WeightFiles | None, str | None]:
    for kind in (files.SAFETENSORS, files.TORCH, files.MSGPACK):
        for choice in dict.fromkeys((variant, None)):
            found = files.find_weights(present, choice, (kind,))
            if found:
                return found, choice
    return None, None


def _convert(sources: list[Path], target: Path) -> None:
    """Writes Flax msgpack files as safetensors, tensor for tensor; no network has to be known."""
    found = {name: tensor for source in sources for name, tensor in open_msgpack(source).items()}
    keys = {key: tensor for name, tensor in found.items() if (key := names.matching_name(name)) is not None}
    written = names.file_names(keys)
    write_entries(target, {written[key]: _converted(tensor) for key, tensor in keys.items()})


def _converted(tensor: Tensor) -> Entry:
    path, dtype = tensor.flax_path, tensor.dtype
    assert path is not None
    if isinstance(dtype, str):
        raise ValueError(
            f"{tensor.file.path} has {path} of type {dtype}; float32, float16 and bfloat16 can be converted."
        )

    def read() -> Any:
        try:
            return contiguous(names.to_file_layout(path, tensor.view()), dtype)
        finally:
            tensor.release()

    return Entry(dtype, names.file_shape(path, tensor.shape), read)


def without_flax(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with PyTorch's class name, FlaxUNet2DConditionModel as UNet2DConditionModel, and without the
    keys that only the Flax class had."""
    name = config.get("_class_name")
    if not isinstance(name, str) or not name.startswith("Flax"):
        return dict(config)
    kept = {key: value for key, value in config.items() if key not in _ONLY_FLAX}
    return kept | {"_class_name": name.removeprefix("Flax")}


def config_name(component: str) -> str:
    """The name of the component's config file."""
    return "scheduler_config.json" if component == "scheduler" else "config.json"


def weights_name(library: str) -> str:
    return "model.safetensors" if library == "transformers" else "diffusion_pytorch_model.safetensors"


def file_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else []


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Download or copy it again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object. Download or copy it again.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _drop_flax(path: Path) -> None:
    config = read_json(path)
    if without_flax(config) != config:
        write_json(path, without_flax(config))
