"""The diffusers folder: what a model consists of, reading it, and writing it as a whole."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxdream.arrays import Params, Shapes
from flaxdream.weights import files
from flaxdream.weights.carry import (
    CONFIG_NAMES,
    carry,
    config_name,
    file_names,
    read_json,
    weights_name,
    without_flax,
    write_json,
)
from flaxdream.weights.checkpoint import MANIFEST, list_checkpoints
from flaxdream.weights.params import Placement, read_params
from flaxdream.weights.replace import INDEX, finish_interrupted, replacing
from flaxdream.weights.safetensors import write_safetensors

logger = logging.getLogger(__name__)

NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")  # what we run; the rest is carried along
_NO_NETWORK = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")
_CLASSES = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"}
_OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")  # null in an index that has none


@dataclass(frozen=True)
class ModelDir:
    """A model folder that was found complete. `configs` holds the config of each component that has one."""

    path: Path
    index: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    needed: tuple[str, ...]
    replaced: Mapping[str, Path]  # folders that take the place of components' own

    def folder_of(self, component: str) -> Path:
        """Where the component's files lie."""
        return self.replaced.get(component, self.path / component)

    @property
    def components(self) -> tuple[str, ...]:
        """Every component that the index lists and that is not null."""
        return _components(self.index)

    @property
    def carried(self) -> tuple[str, ...]:
        """The components that nothing here runs; they are only copied."""
        return tuple(name for name in self.components if name not in self.needed)

    def read_params(
        self,
        component: str,
        shapes: Shapes,
        *,
        dtype: Any = None,
        sharding: Placement = None,
        variant: str | None = None,
    ) -> Params:
        """The parameters of one component; see `params.read_params`.

        A component without weights of the `variant` is read without it, as diffusers does, if another has some.
        """
        own = variant is None or _has(self.folder_of(component), variant)
        if not own and component in self.replaced:
            variant = None  # it comes from elsewhere
        elif not own and any(_has(self.path / other, str(variant)) for other in self.components):
            logger.warning("%s has no weights of variant %r: its plain ones are read", component, variant)
            variant = None
        return read_params(self.folder_of(component), shapes, dtype=dtype, sharding=sharding, variant=variant)


def read_model_dir(
    folder: str | Path, needed: Collection[str] = NEEDED, replaced: Mapping[str, Path] | None = None
) -> ModelDir:
    """The model in `folder`; one ValueError lists all that it lacks of the components `needed`.

    `replaced` are folders, of whatever name, that take the place of components' own.
    """
    path = Path(folder).expanduser()
    index, places = _read_index(path), dict(replaced or {})
    listed = _components(index)
    odd = [name for name in listed if not re.fullmatch(r"\w[\w-]*", name)]  # "../x" would lead out of the folder
    if odd:
        raise ValueError(f"{path / INDEX} lists components whose names cannot be folders: {', '.join(map(repr, odd))}.")
    configs: dict[str, dict[str, Any]] = {}
    lacks = [f"{name}: not in {INDEX}" for name in needed if name not in listed]
    for name in listed:
        place = places.get(name, path / name)
        config = next((place / entry for entry in CONFIG_NAMES if (place / entry).is_file()), None)
        if config is not None:
            configs[name] = without_flax(read_json(config))
        if name in needed:
            lacks += _lacks(name, place, config)
    if lacks:
        raise ValueError(
            f"the model in {path} is not complete:\n" + "\n".join(f"- {lack}" for lack in lacks) + "\n"
            f"{INDEX} lists: {', '.join(listed) or 'nothing'}. Needed: {', '.join(needed)}. "
            "Download or copy what is missing, or the whole folder again."
        )
    return ModelDir(path, index, configs, tuple(needed), places)


def write_model_dir(
    path: str | Path,
    *,
    params: Mapping[str, Params],
    source: str | Path | None = None,
    replaced: Mapping[str, Path] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    dtype: Any = None,
    variant: str | None = None,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Writes a model folder that PyTorch diffusers loads; it appears whole or not at all.

    `params` are written as safetensors in `dtype` (each as it is if None), under the plain file names. Every
    other component of `source` is copied byte for byte (of several weights those of `variant`, else the plain
    ones), under plain names too; Flax's msgpack becomes safetensors. `replaced` are folders that take the place of
    the source's components. `configs` replaces or adds configs, by
    component. `extra` may write more into the folder before it appears. Folders and files of an older result at
    `path` that belong to no model stay as they are.
    """
    configs = dict(configs or {})
    old = read_model_dir(source, needed=(), replaced=replaced) if source is not None else None
    unknown = sorted(name for name in params if name not in configs and (old is None or name not in old.configs))
    if unknown:
        raise ValueError(f"no config for {', '.join(unknown)}: pass it in `configs`, or a `source` that has it.")
    with replacing(Path(path)) as new:
        if old is not None:
            for name in old.components:
                carry(
                    old.folder_of(name), new / name, variant, skip_weights=name in params, skip_config=name in configs
                )
            for entry in sorted(old.path.glob("LICENSE*")):
                shutil.copyfile(entry, new / entry.name)
        for name, config in configs.items():
            (new / name).mkdir(exist_ok=True)
            write_json(new / name / config_name(name), config)
        for name, tree in params.items():
            write_safetensors(new / name / weights_name(_library(name, old, configs)), tree, dtype=dtype)
        if extra is not None:
            extra(new)
        _write_index(new, old, configs)


def _components(index: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2 and entry[1])


def _read_index(path: Path) -> dict[str, Any]:
    if not (path / INDEX).is_file():
        finish_interrupted(path)
    if not path.is_dir():
        raise ValueError(f"{path} does not exist, or is not a folder. Expected a diffusers model folder with {INDEX}.")
    if not (path / INDEX).is_file():
        if (path / MANIFEST).is_file():
            raise ValueError(
                f"{path} is a checkpoint of a training. Make a model of it first: "
                f"flaxdream export --checkpoint {path} --output_dir NEW_FOLDER"
            )
        if unfinished := list_checkpoints(path):
            raise ValueError(
                f"{path} is the folder of a training that has not written its model yet. Its newest checkpoint is "
                f"{unfinished[-1]}: draw from that, or make a model of it: "
                f"flaxdream export --run {path} --output_dir NEW_FOLDER"
            )
        there = ", ".join(sorted(entry.name for entry in path.iterdir())) or "nothing"
        raise ValueError(
            f"{path} is not a diffusers model folder: it has no {INDEX}. There is: {there}. "
            "Give the folder that holds unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
        )
    return read_json(path / INDEX)


def _lacks(name: str, folder: Path, config: Path | None) -> list[str]:
    """What a needed component's folder lacks, in words."""
    shown = f"{name}/" if folder.name == name else f"{folder}/"
    if not folder.is_dir() or not any(folder.iterdir()):
        return [f"{name}: the folder {shown} is missing or empty"]
    lacks = []
    if config is None and not name.startswith("tokenizer"):
        lacks.append(f"{name}: {shown}{config_name(name)} is missing")
    present = file_names(folder)
    if name not in _NO_NETWORK and not any(map(files.is_weight_file, present)):
        lacks.append(f"{name}: no weights in {shown} (there is: {', '.join(present)})")
    return lacks


def _has(folder: Path, variant: str) -> bool:
    return files.find_weights(file_names(folder), variant, (files.SAFETENSORS,)) is not None


def _library(name: str, old: ModelDir | None, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Whose network a component is: diffusers' or transformers'."""
    if old is not None and name in old.components:
        return str(old.index[name][0])
    return "transformers" if "architectures" in configs[name] else "diffusers"


def _write_index(new: Path, old: ModelDir | None, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """model_index.json: a byte for byte copy when nothing in it changed."""
    index: dict[str, Any] = without_flax(old.index if old is not None else {"_class_name": "StableDiffusionPipeline"})
    for name in _components(index):
        library, class_name = index[name]
        index[name] = [library, str(class_name).removeprefix("Flax")]
        if not (new / name).is_dir():
            if name not in _OPTIONAL:
                raise ValueError(f"the source model lacks {name}/; give its parameters and config, or a whole source.")
            logger.warning("%s is not in the source folder: the model is written without it", name)
            index |= {name: [None, None]}
            index |= {"requires_safety_checker": False} if name == "safety_checker" else {}
    for name, config in configs.items():
        class_name = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
        if class_name is None:
            raise ValueError(f"the config of {name} names no class: expected `_class_name` or `architectures`.")
        index[name] = [_library(name, old, configs), class_name]
    if old is None:
        index |= {name: ["transformers", kind] for name, kind in _CLASSES.items() if (new / name).is_dir()}
        index |= {name: [None, None] for name in _OPTIONAL if name not in index} | {"requires_safety_checker": False}
    if old is not None and index == old.index:
        shutil.copyfile(old.path / INDEX, new / INDEX)
    else:
        write_json(new / INDEX, index)
