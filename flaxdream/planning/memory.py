"""A device's memory by what lies in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flaxdream.planning.buffers import Buffers
from flaxdream.planning.hlo_text import Module

# What an argument is, by how its path starts; the first that fits counts.
KINDS = (
    ("state['params']", "parameters"),
    ("state['opt_state']", "optimizer"),
    ("state['ema']", "EMA"),
    ("state[", "counters"),
    ("frozen[", "frozen"),
    ("batch[", "batch"),
    ("params[", "parameters"),
)
INPUTS = "inputs"


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. `unused` lies there too, though this program does not read it."""

    kinds: dict[str, int]
    unused: int
    results: int
    temporaries: int
    code: int | None
    host: int
    """In the host's memory, for this device."""

    @property
    def total(self) -> int:
        return sum(self.kinds.values()) + self.unused + self.results + self.temporaries + (self.code or 0)


def kind_of(path: str) -> str:
    """The kind of the argument with this path, such as state['params']['unet']['conv_in']['kernel']."""
    return next((kind for start, kind in KINDS if path.startswith(start)), INPUTS)


def memory(module: Module, buffers: Buffers, arguments: Mapping[str, int]) -> Memory:
    """Sorts the compiler's buffers by the arguments' paths. `arguments` are the bytes per device of all, by path."""
    paths = {number: _path(parameter.rest) for number, parameter in module.entry.parameters.items()}
    kinds: dict[str, int] = {}
    for number, size in buffers.arguments.items():
        kind = kind_of(paths.get(number, ""))
        kinds[kind] = kinds.get(kind, 0) + size
    unused = sum(size for path, size in arguments.items() if path not in paths.values())
    host = sum(buffers.host_arguments.values())
    return Memory(kinds, unused, buffers.results, buffers.temporaries, buffers.code, host)


def _path(text: str) -> str:
    match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', text)
    return match.group(1).replace("\\'", "'") if match else ""
