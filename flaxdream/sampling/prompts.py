"""Prompt files: a picture a line, with kohya's options at the line's end."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """A prompt with what its line says of the picture; None means the command's own value."""

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    seed: int | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None


OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "n": ("negative_prompt", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "l": ("guidance_scale", float),
    "s": ("num_inference_steps", int),
}
OPTION = re.compile(r"\s--([a-zA-Z]\w*)(?=\s|$)")


def parse_prompt_line(line: str) -> Request:
    """A line such as `a red fox --n blurry --w 512 --h 768 --d 7 --l 7.5 --s 28` as a Request.

    Raises ValueError for an option that is not known or has a value of the wrong kind.
    """
    prompt, *parts = OPTION.split(line.strip())
    values: dict[str, Any] = {}
    for option, text in zip(parts[::2], parts[1::2], strict=True):
        if option not in OPTIONS:
            known = ", ".join(f"--{name} ({field})" for name, (field, _) in OPTIONS.items())
            raise ValueError(f"--{option} is not an option of a prompt line; known: {known}")
        field, convert = OPTIONS[option]
        try:
            values[field] = convert(text.strip())
        except ValueError as error:
            raise ValueError(f"--{option} {text.strip()!r} is not {field} ({convert.__name__})") from error
    return Request(prompt.strip(), **values)


def read_prompts_file(path: str | Path) -> list[Request]:
    """The Requests of all lines but empty ones and comments; one ValueError names every bad line."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts_file {path} cannot be read: {error}") from error
    requests, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            requests.append(parse_prompt_line(line))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if not requests and not problems:
        problems.append(f"{path} holds no prompt")
    if problems:
        raise ValueError("\n".join(problems))
    return requests
