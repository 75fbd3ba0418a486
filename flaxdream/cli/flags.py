"""Flags and YAML to a config: defaults < --config file.yaml < flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro

from flaxdream.cli.yaml_file import read_yaml


def parse(cls: type, argv: Sequence[str], command: str) -> Any:
    """The config that the flags and the file behind --config make together.

    Leaves the program with exit code 2 and a suggestion when a flag is unknown (tyro's own message).
    """
    rest, path = _take_config(list(argv))
    default = cls(**read_yaml(path, cls)) if path else cls()
    return tyro.cli(
        cls,
        args=rest,
        default=default,
        prog=f"flaxdream {command}",
        description=f"{cls.__doc__}\n\n--config FILE.yaml gives the same settings from a file; flags win over it.",
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes,),
    )


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
