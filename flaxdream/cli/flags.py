"""Flags and YAML to a config: defaults < --config file.yaml < flags."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tyro

from flaxdream.cli.translate import translate
from flaxdream.config.checks import SECRETS
from flaxdream.config.yaml_file import read_yaml

WIDTH = 118


class Parsed(NamedTuple):
    config: Any
    notes: list[str]
    """Flags of other trainers that were taken otherwise than they stand there."""
    sources: list[str]
    """Which values came from flags and which from the file; the rest are defaults."""


def parse(cls: type, argv: Sequence[str], command: str) -> Any:
    """The config that the flags and the file behind --config make together.

    Leaves the program with exit code 2 and a suggestion when a flag is unknown (tyro's own message).
    """
    rest, path = _take_config(list(argv))
    return _parse(cls, rest, read_yaml(path, cls) if path else {}, command)


def parse_training(cls: type, argv: Sequence[str], command: str, check: Callable[[Any], list[str]]) -> Parsed:
    """As `parse`, for the command lines of other trainers too.

    Raises ValueError with all that cannot be taken and all that `check` finds wrong with the config.
    """
    rest, path = _take_config(list(argv))
    words, notes, problems = translate(rest, cls)
    try:
        file = read_yaml(path, cls) if path else {}
    except ValueError as error:
        raise refusal([*problems, str(error)]) from error
    try:
        config = _parse(cls, words, file, command)
    except SystemExit as stop:
        if stop.code and problems:
            print(f"flaxdream {command}: {refusal(problems)}", file=sys.stderr)
        raise
    if problems := problems + check(config):
        raise refusal(problems)
    return Parsed(config, notes, source_lines(config, words, file, path))


def refusal(problems: Sequence[str]) -> ValueError:
    """The error that lists the problems."""
    return ValueError("these settings cannot be used:\n  " + "\n  ".join(problems))


def source_lines(config: Any, argv: Sequence[str], file: Mapping[str, Any], path: str | None) -> list[str]:
    """What was set by flags and what by the file, for the log; defaults are left out."""
    words = {word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    names = [field.name for field in dataclasses.fields(config)]
    flags = [name for name in names if name in words or f"no_{name}" in words]
    others = [name for name in names if name in file and name not in flags]
    lines = []
    for origin, given in (("flags", flags), (path, others)):
        if given:
            text = ", ".join(_setting(config, name, file if origin == "flags" else {}) for name in given)
            lines += textwrap.wrap(f"from {origin}: {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _setting(config: Any, name: str, file: Mapping[str, Any]) -> str:
    if name in SECRETS:
        return f"{name} (not shown)"
    is_overruled = name in file and file[name] != getattr(config, name)
    overruled = f" (not {_shown(file[name])} of the file)" if is_overruled else ""
    return f"{name} {_shown(getattr(config, name))}{overruled}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)


def _parse(cls: type, argv: list[str], file: Mapping[str, Any], command: str) -> Any:
    return tyro.cli(
        cls,
        args=_unknown_apart(cls, argv),
        default=cls(**file),
        prog=f"flaxdream {command}",
        description=f"{cls.__doc__}\n\n--config FILE.yaml gives the same settings from a file; flags win over it.",
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _unknown_apart(cls: type, argv: list[str]) -> list[str]:
    """`--unknown=value` as two words: tyro suggests a flag for a name alone only."""
    known = {field.name for field in dataclasses.fields(cls)}
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        is_unknown = name.startswith("--") and equals and name[2:].replace("-", "_") not in known
        words += [name, value] if is_unknown else [word]
    return words


def _take_config(argv: list[str]) -> tuple[list[str], str | None]:
    """The arguments without --config, and its value."""
    for index, argument in enumerate(argv):
        if argument.startswith("--config="):
            return argv[:index] + argv[index + 1 :], argument.partition("=")[2]
        if argument == "--config":
            if index + 1 == len(argv):
                raise ValueError("--config needs the path of a YAML file")
            return argv[:index] + argv[index + 2 :], argv[index + 1]
    return argv, None
