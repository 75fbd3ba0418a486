"""A checkpoint of a training as a model folder: what the run would have written at that step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from flaxdream.arrays import Params
from flaxdream.config.export import ExportConfig
from flaxdream.models import build
from flaxdream.weights.checkpoint import SavedCheckpoint, list_checkpoints, listed_checkpoints
from flaxdream.weights.checkpoint_model import (
    CheckpointModel,
    checkpoint_model,
    find_checkpoint,
    trained_components,
)
from flaxdream.weights.model_dir import write_model_dir
from flaxdream.weights.replace import finish_interrupted

MARK = "export.json"  # in every exported folder: what it is, and that it may be replaced
NETWORKS = ("unet", "text_encoder", "vae")


@dataclass(frozen=True)
class Exported:
    """What was written where."""

    folder: Path
    checkpoint: Path
    step: int
    weights: str  # in words
    notes: tuple[str, ...]  # what is otherwise than the run would have written it


def export_checkpoint(config: ExportConfig) -> Exported:
    """Writes the folder; it appears whole or not at all.

    Without `weights_dtype` it is bit for bit what the run would have written at that step. Raises ValueError that says
    what there is and what to do.
    """
    saved = _chosen(config)
    target = Path(config.output_dir).expanduser()
    _refuse_other(target)
    model = checkpoint_model(
        saved,
        starting_model=config.pretrained_model_name_or_path,
        needed=trained_components(saved),
        use_ema=config.ema,
        token=config.hub_token,
        cache_dir=config.cache_dir,
    )
    has_average = model.has_ema and config.ema
    weights = "moving average" if has_average else "weights as trained"
    about = {"checkpoint": str(saved.path), "step": saved.step, "weights": weights}

    def mark(new: Path) -> None:
        (new / MARK).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    write_model_dir(
        target,
        params=_params(model, saved, config.weights_dtype),
        source=model.path,
        replaced=model.replaced,
        configs=model.changed_configs,
        dtype=config.weights_dtype,
        variant=saved.extra["config"].get("variant"),
        extra=mark,
    )
    notes = ["the scaling_factor in vae/config.json is the starting model's: the run finds its own at the end"]
    return Exported(target, saved.path, saved.step, weights, tuple(notes if _finds_scaling_factor(saved) else ()))


def _params(model: CheckpointModel, saved: SavedCheckpoint, weights_dtype: str | None) -> dict[str, Params]:
    """What trained, as it was kept; with a type to write in, all networks."""
    trained = [name for name in model.trained if not (name == "text_encoder" and _leaves_text_encoder(saved))]
    others = [name for name in NETWORKS if name not in trained and name in model.configs]
    names = trained if weights_dtype is None else [*trained, *others]
    shapes = {name: build(model.configs[name]).shapes for name in names}
    shapes |= {name: model.saved_shapes(name, shapes[name]) for name in trained}
    variant = saved.extra["config"].get("variant")
    return {name: model.read_params(name, shapes[name], variant=variant) for name in names}


def _finds_scaling_factor(saved: SavedCheckpoint) -> bool:
    return bool(saved.extra["config"].get("set_scaling_factor"))


def _leaves_text_encoder(saved: SavedCheckpoint) -> bool:
    return bool(saved.extra["config"].get("skip_save_text_encoder"))


def _chosen(config: ExportConfig) -> SavedCheckpoint:
    if config.checkpoint is None:
        assert config.run is not None
        folder = Path(config.run).expanduser().absolute()
        found = list_checkpoints(folder)
        if not found:
            there = "there is no such folder" if not folder.is_dir() else "it holds no finished checkpoint"
            raise ValueError(f"--run {config.run}: {there}. Give the output_dir of a training.")
        path = found[-1]
    else:
        path = Path(config.checkpoint).expanduser().absolute()
        if config.run is not None and (not path.is_dir() or path.parent != Path(config.run).expanduser().absolute()):
            path = Path(config.run).expanduser().absolute() / config.checkpoint
    saved = find_checkpoint(path)
    if saved is not None:
        return saved
    if list_checkpoints(path):
        raise ValueError(
            f"--checkpoint {config.checkpoint} is a whole run: --run {config.checkpoint} takes its newest."
        )
    what = "a model folder, and nothing is left to export" if (path / "model_index.json").is_file() else "no checkpoint"
    raise ValueError(f"--checkpoint {config.checkpoint} is {what}. {listed_checkpoints(path.parent)}")


def _refuse_other(target: Path) -> None:
    finish_interrupted(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"--output_dir {target} is a file; give a new folder.")
    if target.is_dir() and any(target.iterdir()) and not (target / MARK).is_file():
        raise ValueError(
            f"--output_dir {target} holds something that is no earlier export ({MARK} is not there), and nothing is "
            "overwritten: give a new folder."
        )
