"""A device's memory by what lies in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flaxdream.planning.buffers import Buffers

# What an argument is, by how its path starts; the first that fits counts.
KINDS = (
    ("state['params']", "parameters"),
    ("state['opt_state']", "optimizer"),
    ("state['ema']", "EMA"),
    ("state[", "counters"),
    ("frozen[", "frozen"),
    ("held_out[", "frozen"),
    ("batch[", "batch"),
    ("waiting[", "batch"),
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


def memory(buffers: Buffers, arguments: Mapping[str, int], kept: Sequence[str]) -> Memory:
    """Sorts the compiler's buffers by the arguments' paths.

    `arguments` are the bytes per device of all, by path; `kept` the paths of those that the program reads, in order.
    """
    kinds: dict[str, int] = {}
    for number, size in buffers.arguments.items():
        kind = kind_of(kept[number])
        kinds[kind] = kinds.get(kind, 0) + size
    unread = arguments.keys() - set(kept)
    waiting = {path for path in unread if path.startswith("waiting[")}  # batches of coming steps
    if waiting:
        kinds["batch"] = kinds.get("batch", 0) + sum(arguments[path] for path in waiting)
    unused = sum(arguments[path] for path in unread - waiting)
    host = sum(buffers.host_arguments.values()) + buffers.host_temporaries
    return Memory(kinds, unused, buffers.results, buffers.temporaries, buffers.code, host)
