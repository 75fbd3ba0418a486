"""What is asked of the process that compiles, as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxdream.config.checks import SECRETS
from flaxdream.config.plan import RECIPES
from flaxdream.config.run import RunConfig


@dataclass(frozen=True)
class Request:
    """A program (`train`, `sample`, `encode`) of a training on a machine; `configs` are the model's."""

    recipe: str
    config: RunConfig
    configs: dict[str, Any]
    topology: str
    program: str
    caption_count: int
    full: bool
    image_count: int = 1

    def as_json(self) -> str:
        values = {name: value for name, value in vars(self).items() if name != "config"}
        given = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in SECRETS}
        return json.dumps(values | {"config": given}, sort_keys=True)


def read_request(path: Path) -> Request:
    values = json.loads(path.read_text(encoding="utf-8"))
    config: dict[str, Any] = values.pop("config")
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}
    settings, _ = RECIPES[values["recipe"]]
    return Request(config=settings(**given), **values)
