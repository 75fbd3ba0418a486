"""The compiler's plan of a device's memory, from the text that it writes before it generates code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from flaxdream.planning.hlo_text import Module

_PARAMETER = re.compile(
    r"^allocation \d+: size (\d+),(?: color (\d+),)? parameter (\d+), shape \|.*\| at ShapeIndex \{(\d*)\}",
    re.MULTILINE,
)
_OUTPUT = re.compile(r"^allocation \d+: size (\d+), (?:output shape|maybe-live-out)", re.MULTILINE)
_HOST_TEMPORARY = re.compile(r"^allocation \d+: size (\d+), color 5, preallocated-temp", re.MULTILINE)
_TOTAL = re.compile(r"Memory Space: default \(color=0\)\s*\nTotal bytes: (\d+)")
HOST = 5


@dataclass(frozen=True)
class Buffers:
    """Bytes on one device while the program runs."""

    arguments: dict[int, int]
    """By the number of the argument, padding included."""
    host_arguments: dict[int, int]
    """Those in the host's memory."""
    results: int
    """Results that do not take the place of arguments."""
    temporaries: int
    code: int | None
    """None where no code was generated."""
    host_temporaries: int = 0
    """What the program keeps in the host's memory for a while, such as the inputs of blocks for their recomputation."""


def from_dump(assignment: str, usage: str) -> Buffers:
    """From `*buffer-assignment.txt` and `*memory-usage-report.txt`.

    More than 2000 arguments of a TPU's program are one parameter, a tuple: its places are the arguments' numbers.
    """
    here: dict[int, int] = {}
    host: dict[int, int] = {}
    found = _PARAMETER.findall(assignment)
    in_tuple = any(place for *_, place in found)
    for size, colour, number, place in found:
        if place or not in_tuple:  # else the table of the tuple itself
            (host if colour == str(HOST) else here)[int(place or number)] = int(size)
    total = _TOTAL.search(usage)
    if total is None:
        raise ValueError("the compiler's memory report names no total for the device's memory")
    results = sum(map(int, _OUTPUT.findall(assignment)))
    temporaries = int(total.group(1)) - sum(here.values()) - results
    host_temporaries = sum(map(int, _HOST_TEMPORARY.findall(assignment)))
    return Buffers(here, host, results, max(0, temporaries), None, host_temporaries)


def from_analysis(analysis: Any, module: Module) -> Buffers:
    """From `compiled.memory_analysis()`; the sizes of arguments are their shapes'."""
    here: dict[int, int] = {}
    host: dict[int, int] = {}
    parameters = module.entry.parameters
    in_tuple = len(parameters) == 1 and parameters[0].shape.startswith("(")
    arrays = parameters[0].arrays if in_tuple else [parameters[number].arrays[0] for number in sorted(parameters)]
    for number, array in enumerate(arrays):
        (host if array.space == HOST else here)[number] = array.bytes
    stats = {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in ("output", "alias", "temp", "host_temp")}
    code = int(analysis.generated_code_size_in_bytes)
    results = max(0, stats["output"] - stats["alias"])
    return Buffers(here, host, results, stats["temp"], code, stats["host_temp"])
