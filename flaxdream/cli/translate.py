"""A command line of another trainer as one of ours."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from flaxdream.cli.foreign_flags import ALIASES, MANY, REFUSED, WITHOUT_EFFECT

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Translation(NamedTuple):
    argv: list[str]
    """Flags of the config's fields."""
    notes: list[str]
    """What was taken otherwise than it stands there."""
    problems: list[str]
    """What cannot be taken, and what to do."""


class Flag(NamedTuple):
    name: str
    """With underscores, without the dashes."""
    values: list[str]
    inline: bool
    """--name=value"""


def translate(argv: Sequence[str], cls: type) -> Translation:
    """The command line, from any of the scripts of `foreign_flags`, with the flags of `cls`.

    What stands before the script's name (`accelerate launch ... train_dreambooth.py`) is left out. Flags that are
    unknown stay, for the parser to answer.
    """
    rest, notes, problems = _without_launcher(list(argv))
    is_switch = {field.name: typing.get_type_hints(cls)[field.name] is bool for field in dataclasses.fields(cls)}
    start, flags = _split(rest)
    result = start
    for flag in flags:
        name = flag.name
        if name in is_switch:
            result += _as_field(name, flag, is_switch[name])
        elif name in ALIASES and ALIASES[name].field in is_switch:
            alias = ALIASES[name]
            if alias.value is None:
                result += _as_field(alias.field, flag, is_switch[alias.field])
            else:
                on, extra = _switched(flag)
                result += [f"--{alias.field}", alias.value, *extra] if on else extra
            shown = f"--{alias.field}" + (f" {alias.value}" if alias.value else "")
            notes.append(f"--{name} is taken as {shown}.")
        elif name in WITHOUT_EFFECT:
            notes.append(f"--{name} has no effect: {WITHOUT_EFFECT[name].reason}")
            result += _left_over(flag, WITHOUT_EFFECT[name].takes)
        elif name in REFUSED:
            if not flag.values or flag.values[0] not in REFUSED[name].harmless:
                problems.append(f"--{' '.join([name, *flag.values[:1]])}: {REFUSED[name].instead}")
            result += _left_over(flag, REFUSED[name].takes)
        else:
            result += _as_written(name, flag)
    return Translation(result, list(dict.fromkeys(notes)), list(dict.fromkeys(problems)))


def _split(argv: list[str]) -> tuple[list[str], list[Flag]]:
    """What stands before the first flag, and the flags, each with all that stands before the next."""
    start: list[str] = []
    flags: list[Flag] = []
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            flags.append(Flag(name.replace("-", "_"), [value] if equals else [], bool(equals)))
        elif flags:
            flags[-1].values.append(word)
        else:
            start.append(word)
    return start, flags


def _as_field(field: str, flag: Flag, is_switch: bool) -> list[str]:
    if not is_switch:
        return _as_written(field, flag)
    on, extra = _switched(flag)
    return [f"--{field}" if on else f"--no_{field}", *extra]


def _switched(flag: Flag) -> tuple[bool, list[str]]:
    """Whether `--flag`, `--flag True` or `--flag=False` means yes, and the values that are not its own.

    argparse's type=bool takes every word as yes, False too; here the word counts.
    """
    word = flag.values[0].lower() if flag.values else ""
    if word in YES or word in NO:
        return word in YES, flag.values[1:]
    return True, flag.values


def _as_written(name: str, flag: Flag) -> list[str]:
    if flag.inline:
        return [f"--{name}={flag.values[0]}", *flag.values[1:]]
    return [f"--{name}", *flag.values]


def _left_over(flag: Flag, takes: int) -> list[str]:
    """The values that do not belong to a flag with `takes` values."""
    if takes == MANY:
        return []
    return flag.values[1:] if takes else _switched(flag)[1]


def _without_launcher(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What follows the script's name, if there is one; notes; problems."""
    script = next((place for place, word in enumerate(argv) if word.endswith(".py")), None)
    if script is None or argv[0].startswith("-"):
        return argv, [], []
    name = PurePath(argv[script]).name
    rest, notes, problems = argv[script + 1 :], [], []
    for flag in _split(argv[:script])[1]:
        if flag.name == "mixed_precision" and flag.values:  # accelerate's, which the script's own wins over
            rest = ["--mixed_precision", flag.values[0], *rest]
        else:
            notes.append(f"--{flag.name} of the launcher has no effect: all devices and hosts are found without it.")
    if "lora" in name:
        problems.append(f"{name}: {REFUSED['rank'].instead.partition(' Leave')[0]}")
    elif any(model in name for model in ("sdxl", "sd3", "flux")):
        problems.append(f"{name}: only Stable Diffusion 1.x and 2.x are built so far.")
    return rest, notes, problems
