"""Every knob with its default and unit, as frozen dataclasses: field = YAML key = flag. No jax."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml


@dataclass(frozen=True)
class SampleConfig:
    """Draw pictures from prompts."""

    pretrained_model_name_or_path: str = ""
    """A model folder in the diffusers layout, or the id of one on the Hugging Face Hub."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    variant: str | None = None
    """Which weight files, for example fp16; the plain ones if not given."""
    hub_token: str | None = None
    """Token for gated or private models; the one of `hf auth login` if not given."""
    cache_dir: str | None = None
    """Where downloads are kept; the Hub's own cache if not given."""
    prompt: tuple[str, ...] = ()
    """One or more prompts."""
    prompts_file: str | None = None
    """A text file, a prompt a line; options at the line's end: --n negative, --w width, --h height, --d seed,
    --l guidance scale, --s steps. Lines that start with # are left out."""
    negative_prompt: str = ""
    """What the pictures should not show."""
    output_dir: str = "samples"
    """Folder for the PNG files and the contact sheet; what lies there is kept."""
    num_images_per_prompt: int = 1
    seed: int = 0
    """Seed of the first picture; each next one has the next seed."""
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    """Strength of the prompt; at 1 or less no guidance is computed and the negative prompt has no effect."""
    guidance_rescale: float = 0.0
    """0 to 1: takes back the contrast that strong guidance adds (0.7 for zero-terminal-SNR models)."""
    height: int | None = None
    """Pixels; a multiple of 8. The model's own size if not given."""
    width: int | None = None
    """Pixels; a multiple of 8. The model's own size if not given."""
    sampler: str | None = None
    """ddim, ddpm, pndm, dpmpp_2m, dpmpp_2m_karras, euler, euler_a, heun, lms, unipc, ... or a diffusers class name;
    the model's own if not given."""
    clip_skip: int = 0
    """How many of the text encoder's last layers are left out."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """no computes in float32; bf16 halves memory on TPUs and GPUs."""
    sample_batch_size: int = 1
    """Pictures a device draws at once."""
    vae_tiling: bool = False
    """Decode in overlapping tiles: little memory for large pictures."""
    attention: str = "auto"
    """Attention kernel: auto, xla, chunked, cudnn or flash."""
    compilation_cache_dir: str | None = "~/.cache/flaxdream/xla"
    """Compiled programs are kept here, so that the next start is quick; "" keeps none."""


@dataclass(frozen=True)
class RandomModelConfig:
    """Write a model with random weights: to try commands and machines without a download."""

    output_dir: str = ""
    """Folder to write; it must not exist."""
    architecture: Literal["tiny", "tiny-v", "sd15", "sd21"] = "tiny"
    """tiny: a few hundred thousand parameters; tiny-v: the same with v-prediction; sd15, sd21: the true shapes."""
    weights_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    seed: int = 0


def read_yaml(path: str | Path, cls: type) -> dict[str, Any]:
    """The values of a YAML file for the fields of `cls`, converted to the fields' types.

    PyYAML reads `5e-6` as a string and a single prompt as one string; the field's type decides here.
    Raises ValueError with every unknown key and every value that does not fit.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--config {path} is not valid YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise ValueError(f"--config {path} holds a {type(raw).__name__}; expected lines of the form `key: value`.")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    values, problems = {}, []
    for key, value in raw.items():
        if key not in names:
            problems.append(f"unknown key {key!r}{_suggestion(str(key), names)}")
            continue
        try:
            values[key] = _convert(value, hints[key])
        except (TypeError, ValueError):
            problems.append(f"{key}: {value!r} is not {_readable(hints[key])}")
    if problems:
        raise ValueError(f"--config {path}:\n  " + "\n  ".join(problems))
    return values


def write_yaml(path: Path, config: Any) -> None:
    """Writes the config as a file that `--config` reads."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def sample_problems(config: SampleConfig) -> list[str]:
    """Everything wrong with the settings that can be said without opening a file."""
    problems = []
    if not config.pretrained_model_name_or_path:
        problems.append("--pretrained_model_name_or_path is missing: a model folder or a Hub id.")
    if not config.prompt and config.prompts_file is None:
        problems.append("No prompt: give --prompt 'a photo of a dog' or --prompts_file prompts.txt.")
    for name in ("height", "width"):
        value = getattr(config, name)
        if value is not None and (value <= 0 or value % 8):
            problems.append(f"--{name} {value} is not a positive multiple of 8; nearest: {_nearest(value)}.")
    for name in ("num_images_per_prompt", "num_inference_steps", "sample_batch_size"):
        if getattr(config, name) < 1:
            problems.append(f"--{name} {getattr(config, name)} must be 1 or more.")
    if config.clip_skip < 0:
        problems.append(f"--clip_skip {config.clip_skip} must be 0 or more.")
    if not 0.0 <= config.guidance_rescale <= 1.0:
        problems.append(f"--guidance_rescale {config.guidance_rescale} must lie in 0..1.")
    return problems


def _nearest(pixels: int) -> int:
    return max(8, round(pixels / 8) * 8)


def _suggestion(word: str, choices: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, choices, n=1)
    return f"; perhaps you meant {close[0]!r}" if close else ""


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, without loss; else TypeError or ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            if type(None) in args:
                return None
            raise TypeError
        return _convert(value, next(arg for arg in args if arg is not type(None)))
    if origin is Literal:
        text = "no" if value is False and "no" in args else value  # YAML reads a bare `no` as false
        if text not in args:
            raise ValueError
        return text
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(item, args[0]) for item in items)
    return _convert_scalar(value, hint)


def _convert_scalar(value: Any, hint: Any) -> Any:
    if hint is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or value is None:
        raise TypeError
    if hint is int:
        number = float(value)
        if number != int(number):
            raise ValueError
        return int(value) if isinstance(value, int) else int(number)
    return hint(value)


def _readable(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, args))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join("empty" if arg is type(None) else _readable(arg) for arg in args)
    if typing.get_origin(hint) is tuple:
        return f"a list of {_readable(args[0])}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))
