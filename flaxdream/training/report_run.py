"""What a run folder tells: settings, metrics, summary and pictures, as far as they are there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flaxdream.config
from flaxdream.config import SECRETS
from flaxdream.config.yaml_file import read_yaml
from flaxdream.training.metrics_file import read_metrics
from flaxdream.training.run_pictures import STEP_FOLDER


@dataclass(frozen=True)
class PromptRow:
    """A validation prompt with its picture files."""

    prompt: str
    negative_prompt: str
    files: tuple[Path, ...]
    seeds: tuple[int | None, ...]


@dataclass(frozen=True)
class Validation:
    """The pictures of one step."""

    step: int
    rows: tuple[PromptRow, ...]


@dataclass(frozen=True)
class Run:
    """A run folder; every part may be empty."""

    folder: Path
    settings: dict[str, Any]
    defaults: dict[str, Any]
    metrics: list[dict[str, Any]]  # by step, one a step
    summary: dict[str, Any]
    validations: list[Validation]  # by step
    instance: list[Path]
    classes: list[Path]

    @property
    def last_step(self) -> int | None:
        return self.metrics[-1]["step"] if self.metrics else None

    @property
    def data_set(self) -> str:
        """The captioned set that the run trained on; empty for the pictures of a subject."""
        return str(self.settings.get("dataset_name") or self.settings.get("train_data_dir") or "")

    @property
    def is_complete(self) -> bool:
        """Whether the run went to its end, where its summary is written; one of an earlier, longer run is none."""
        ended = bool(self.summary) and self.summary.get("completed", True) is not False
        steps = self.summary.get("steps")
        return ended and not (isinstance(steps, int) and self.last_step is not None and self.last_step < steps)


def read_run(folder: str | Path) -> Run:
    """All that the folder has. Raises ValueError if it has neither metrics nor pictures nor settings."""
    folder = Path(folder).expanduser()
    settings, defaults = read_settings(folder / "config.yaml")
    run = Run(
        folder,
        settings,
        defaults,
        read_metrics(folder / "metrics.jsonl"),
        _mapping(_json(folder / "summary.json")),
        _validations(folder / "validation"),
        sorted(folder.glob("thumbs/instance-*.jpg")),
        sorted(folder.glob("thumbs/class-*.jpg")),
    )
    if not (run.settings or run.metrics or run.summary or run.validations):
        raise ValueError(
            f"{folder} is no run folder: it has no config.yaml, metrics.jsonl, summary.json or validation/. "
            "Give the --output_dir of a training."
        )
    return run


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a config.yaml and the defaults of the command that wrote it: the smallest that knows them all.

    Both are empty where there is no such file or no such command (it is of another version).
    """
    public = vars(flaxdream.config).values()
    configs = [config for config in public if isinstance(config, type) and dataclasses.is_dataclass(config)]
    for config in sorted(configs, key=lambda config: len(dataclasses.fields(config))):
        try:
            settings = read_yaml(path, config)
        except (ValueError, OSError):
            continue
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        return {name: value for name, value in settings.items() if name not in SECRETS}, defaults
    return {}, {}


def _validations(folder: Path) -> list[Validation]:
    """The steps that have pictures; a folder without prompts.json gives them without prompts."""
    found = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = STEP_FOLDER.fullmatch(entry.name)
        rows = _prompt_rows(entry) if match and entry.is_dir() else ()
        if match and rows:
            found.append(Validation(int(match[1]), rows))
    return sorted(found, key=lambda validation: validation.step)


def _prompt_rows(folder: Path) -> tuple[PromptRow, ...]:
    entries = _json(folder / "prompts.json")
    prompts = [_mapping(entry) for entry in entries] if isinstance(entries, list) else []
    files: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("[0-9]*-[0-9]*.png")):
        first = path.stem.split("-")[0]
        if first.isdigit():
            files.setdefault(int(first), []).append(path)
    rows = []
    for index, paths in sorted(files.items()):
        entry = prompts[index] if index < len(prompts) else {}
        images = {str(_mapping(image).get("file")): _mapping(image).get("seed") for image in entry.get("images") or ()}
        seeds = tuple(images.get(path.name) for path in paths)
        rows.append(
            PromptRow(str(entry.get("prompt") or ""), str(entry.get("negative_prompt") or ""), tuple(paths), seeds)
        )
    return tuple(rows)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): entry for name, entry in value.items()} if isinstance(value, Mapping) else {}
