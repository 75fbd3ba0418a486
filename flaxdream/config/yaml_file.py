"""A config from a YAML file and back: PyYAML reads, the type of each field decides what a value is."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from flaxdream.config.checks import SECRETS, suggestion


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
            problems.append(f"unknown key {key!r}{suggestion(str(key), names)}")
            continue
        try:
            values[key] = _convert(value, hints[key])
        except (TypeError, ValueError):
            problems.append(f"{key}: {value!r} is not {_readable(hints[key])}")
    if problems:
        raise ValueError(f"--config {path}:\n  " + "\n  ".join(problems))
    return values


def write_yaml(path: Path, config: Any) -> None:
    """Writes the config, but no token, as a file that `--config` reads."""
    given = {name: value for name, value in dataclasses.asdict(config).items() if name not in SECRETS}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


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
        words = {True: "yes", False: "no"}  # YAML reads a bare `no` as false
        text = words[value] if isinstance(value, bool) and words[value] in args else value
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
