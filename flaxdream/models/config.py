"""Reading a network's config.json: every problem at once, in one error."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar


class Config(Protocol):
    """A frozen dataclass whose fields are keys of config.json; a field's metadata may list its `choices`."""

    __dataclass_fields__: typing.ClassVar[dict[str, Any]]

    def problems(self) -> list[str]:
        """What is wrong between the fields, one sentence each."""
        ...


C = TypeVar("C", bound=Config)


def choice(*choices: Any, default: Any) -> Any:
    """A field that takes only `choices`; for a tuple, each of its entries does."""
    return dataclasses.field(default=default, metadata={"choices": choices})


def read_config(
    cls: type[C], source: Mapping[str, Any], *, fixed: Mapping[str, tuple[Any, ...]], ignored: Collection[str] = ()
) -> C:
    """A `cls` from the keys of a config.json.

    `fixed` are keys that we know but that may only hold the values given (those under which they change
    nothing); `ignored` and names that begin with "_" never change what is computed. Anything else is an error.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    problems = []
    for key, raw in source.items():
        value = _tuples(raw)
        if key in fields:
            values[key] = value
            problems += _field_problems(key, value, hints[key], fields[key].metadata.get("choices"))
        elif key in fixed:
            if value not in fixed[key]:
                problems.append(f"{key}: {raw!r} is not supported; supported: {_listed(fixed[key])}.")
        elif not key.startswith("_") and key not in ignored:
            known = ", ".join(sorted([*fields, *fixed]))
            problems.append(
                f"{key}: {raw!r} is not a key that this version knows; if the model does not need it, remove it. "
                f"Known keys: {known}."
            )
    if not problems:
        config = cls(**values)
        problems = config.problems()
    if problems:
        kind = cls.__name__.removesuffix("Config")
        raise ValueError(
            f"this config.json asks for a {kind} that flaxdream cannot compute:\n"
            + "\n".join(f"- {p}" for p in problems)
        )
    return config


def _field_problems(key: str, value: Any, hint: Any, choices: tuple[Any, ...] | None) -> list[str]:
    if not _fits(value, hint):
        return [f"{key}: {value!r} has the wrong type; expected {_described(hint)}."]
    entries = value if isinstance(value, tuple) else (value,)
    if choices is not None and any(entry not in choices for entry in entries):
        return [f"{key}: {value!r} is not supported; supported: {_listed(choices)}."]
    return []


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(entry, typing.get_args(hint)[0]) for entry in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_described(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list of {_described(typing.get_args(hint)[0])}"
    return "null" if hint is type(None) else hint.__name__


def _listed(values: Collection[Any]) -> str:
    return ", ".join(repr(list(value) if isinstance(value, tuple) else value) for value in values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value
