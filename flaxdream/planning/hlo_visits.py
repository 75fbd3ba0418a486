"""Which computations of a program run, and how often."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from flaxdream.planning.hlo_text import Computation, Instruction, Module

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"^\s*(-?\d+)\s*$")


class Visit(NamedTuple):
    computation: Computation
    times: float
    inside: bool  # of a fusion: its instructions' results never reach the memory


def visits(module: Module) -> Iterator[Visit]:
    """Every computation that runs, loops counted; of a conditional's branches the longest."""
    yield from _visits(module, module.entry, 1.0, False)


def _visits(module: Module, here: Computation, times: float, inside: bool) -> Iterator[Visit]:
    yield Visit(here, times, inside)
    for one in here.instructions:
        if one.opcode == "while":
            for body in one.called("body"):
                yield from _visits(module, module.computations[body], times * trips(one, module), inside)
        elif one.opcode == "conditional":
            branches = one.called("branch_computations", "true_computation", "false_computation")
            longest = max(branches, key=lambda name: len(module.computations[name].instructions))
            yield from _visits(module, module.computations[longest], times, inside)
        elif one.opcode == "call":
            for name in one.called("to_apply", "calls"):
                yield from _visits(module, module.computations[name], times, inside)
        elif one.opcode in ("fusion", "async-start"):
            for name in one.called("calls"):
                yield from _visits(module, module.computations[name], times, True)


def trips(loop: Instruction, module: Module) -> int:
    """How often a loop runs: what the compiler notes, else the largest constant of its condition."""
    known = _KNOWN.search(loop.rest)
    if known:
        return int(known.group(1))
    constants = [
        int(match.group(1))
        for name in loop.called("condition")
        for one in _with_fusions(module, module.computations[name])
        if one.opcode == "constant" and (match := _CONSTANT.match(one.inside))
    ]
    return max(constants, default=1) or 1


def _with_fusions(module: Module, here: Computation) -> Iterator[Instruction]:
    for one in here.instructions:
        yield one
        for name in one.called("calls"):
            yield from _with_fusions(module, module.computations[name])
