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
    """How often a loop runs: what the compiler notes, else the bound of its condition by the step of its counter.

    The compiler unrolls loops and then counts in larger steps. A bound or a step that is not found is taken as the
    largest constant of the condition and 1.
    """
    known = _KNOWN.search(loop.rest)
    if known:
        return int(known.group(1))
    condition = module.computations[loop.called("condition")[0]]
    bounds = [value for one in _with_fusions(module, condition) if (value := _constant(one)) is not None]
    return max(1, -(-max(bounds, default=1) // _step(loop, condition, module)))


def _step(loop: Instruction, condition: Computation, module: Module) -> int:
    """What a turn adds to the counter, which is the part of the loop's state that the condition compares."""
    body = module.computations[loop.called("body")[0]]
    counters = [condition.by_name.get(name) for name in condition.root.operands]
    for counter in counters:
        place = re.search(r"index=(\d+)", counter.rest) if counter and counter.opcode == "get-tuple-element" else None
        if place is None or body.root.opcode != "tuple":
            continue
        added = body.by_name.get(body.root.operands[int(place.group(1))])
        if added is not None and added.opcode == "add":
            steps = [_constant(body.by_name[name]) for name in added.operands if name in body.by_name]
            return max([1, *(step for step in steps if step)])
    return 1


def _constant(one: Instruction) -> int | None:
    match = _CONSTANT.match(one.inside) if one.opcode == "constant" else None
    return int(match.group(1)) if match else None


def _with_fusions(module: Module, here: Computation) -> Iterator[Instruction]:
    for one in here.instructions:
        yield one
        for name in one.called("calls"):
            yield from _with_fusions(module, module.computations[name])
