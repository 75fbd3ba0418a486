"""What a compiled program does: the operations of each instruction and the bytes that it moves in the main memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from flaxdream.planning import kernels
from flaxdream.planning.collectives import KINDS
from flaxdream.planning.hlo_flops import flops_of_product
from flaxdream.planning.hlo_shapes import MAIN, Array
from flaxdream.planning.hlo_text import Computation, Instruction, Module
from flaxdream.planning.hlo_visits import visits

_NO_WORK = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "while", "conditional", "call", "opt-barrier", "add-dependency", "get-dimension-size", "custom-call-done", "domain",
})  # fmt: skip
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_COPIES = ("copy-start", "slice-start", "async-start")  # they run ahead of who needs them
_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "reshape", "get-tuple-element")


@dataclass(frozen=True)
class Operation:
    """One instruction, carried out `times` times a step. `ahead` are copies that run beside the computation."""

    name: str
    flops: float
    bytes: float
    times: float
    ahead: bool = False
    cycles: float = 0.0  # by the compiler's schedule, which it writes with the code; none for kernels
    kernel_flops: float = 0.0
    """The part of `flops` that is inside kernels, which the compiler does not look into."""


def operations(module: Module) -> Iterator[Operation]:
    """Every instruction that works; those of a fusion are one, and collectives are not among them."""
    for here, times, inside in visits(module):
        if inside:
            continue
        for one in here.instructions:
            if one.opcode in _NO_WORK or one.opcode.endswith("-done") or _kind(one) in KINDS:
                continue
            kernel = kernels.flops(one, here)
            flops = _flops(module, one, here) + kernel
            moved = _moved(module, one, here)
            cycles = _CYCLES.search(one.rest)
            scheduled = float(cycles.group(1)) if cycles else 0.0
            ahead = one.opcode in _COPIES and not flops
            if flops or moved or scheduled:
                yield Operation(one.name, flops, moved, times, ahead, scheduled, kernel)


def _kind(one: Instruction) -> str:
    return one.opcode.removesuffix("-start")


def _flops(module: Module, one: Instruction, here: Computation) -> float:
    total = flops_of_product(one, here)
    if one.opcode in ("fusion", "async-start"):
        for name in one.called("calls"):
            inner = module.computations[name]
            total += sum(_flops(module, part, inner) for part in inner.instructions)
    return total


def _moved(module: Module, one: Instruction, here: Computation) -> float:
    """Bytes read from and written to the main memory; what lies on the chip is free."""
    if one.opcode in _COPIES and not _flops(module, one, here):
        return _copied(one, here)
    operands = [here.by_name[name] for name in one.operands if name in here.by_name]
    read = sum(_read_by(module, one, place, _in_main(operand.arrays)) for place, operand in enumerate(operands))
    return read + _written(module, one, here)


def _copied(one: Instruction, here: Computation) -> float:
    """An asynchronous copy's traffic: the bytes of its target, read, written or both.

    A copy's shape is (target, source, mark), a slice's ((source), target, mark).
    """
    target = one.arrays[0 if one.opcode == "copy-start" else 1]
    source = next((here.by_name[name].arrays[0] for name in one.operands if name in here.by_name), target)
    return float(sum(target.bytes for side in (target, source) if side.space == MAIN))


def _in_main(arrays: tuple[Array, ...]) -> float:
    return float(sum(array.bytes for array in arrays if array.space == MAIN))


def _read_by(module: Module, one: Instruction, place: int, whole: float) -> float:
    """Bytes that an instruction reads of the operand at `place`, which has `whole`: less where it takes slices."""
    if not whole:
        return 0.0
    if one.opcode in _SLICES:
        return min(whole, float(sum(array.bytes for array in one.arrays))) if place == 0 else whole
    if one.opcode == "dynamic-update-slice":
        return 0.0 if place == 0 else whole
    if one.opcode != "fusion":
        return whole
    inner = module.computations[one.called("calls")[0]]
    parameter = inner.parameters.get(place)
    return whole if parameter is None else _read_inside(module, inner, parameter.name, whole)


def _read_inside(module: Module, inner: Computation, name: str, whole: float) -> float:
    total = 0.0
    for user in inner.users.get(name, ()):
        if user.opcode == "tuple" or _kind(user) in KINDS:
            continue  # handed on, or sent: an all-gather is spread over many fusions and takes a part in each
        if user.opcode in _VIEWS:
            # a fusion inside a fusion that only turns its operand gives all of it to a product
            total += whole if user.is_root else _read_inside(module, inner, user.name, whole)
        else:
            places = [place for place, operand in enumerate(user.operands) if operand == name]
            total += max(_read_by(module, user, place, whole) for place in places)
    return min(total, whole)


def _written(module: Module, one: Instruction, here: Computation) -> float:
    if one.opcode == "dynamic-update-slice":
        return _update(one, here) if one.arrays[0].space == MAIN else 0.0
    if one.opcode != "fusion":
        return _in_main(one.arrays)
    inner = module.computations[one.called("calls")[0]]
    roots = [inner.root]
    if inner.root.opcode == "tuple":
        roots = [inner.by_name[name] for name in inner.root.operands]
    if len(roots) != len(one.arrays):
        return _in_main(one.arrays)
    return sum(_result(root, inner, array) for root, array in zip(roots, one.arrays) if array.space == MAIN)


def _result(root: Instruction, inner: Computation, array: Array) -> float:
    while root.opcode in ("bitcast", "reshape") and root.operands[0] in inner.by_name:
        root = inner.by_name[root.operands[0]]
    if root.opcode == "parameter" or _kind(root) in KINDS:
        return 0.0  # it is there already, or comes from other devices
    return _update(root, inner) if root.opcode == "dynamic-update-slice" else float(array.bytes)


def _update(one: Instruction, here: Computation) -> float:
    """An update in place writes the update alone."""
    return float(here.by_name[one.operands[1]].arrays[0].bytes)
