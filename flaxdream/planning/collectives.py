"""What the devices send each other in a step: how many transfers of each kind, and how many bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from flaxdream.planning.hlo_text import Instruction, Module
from flaxdream.planning.hlo_visits import visits

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


@dataclass(frozen=True)
class Collective:
    """One transfer. `bytes` is the whole array, of which each of the group's `devices` holds all or a part."""

    kind: str
    bytes: float
    devices: int
    times: float

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, by the best algorithm on a ring."""
        share = (self.devices - 1) / self.devices
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.bytes * self.times


def collectives(module: Module) -> list[Collective]:
    """Every transfer of a step. One that is spread over several fusions appears in each, and counts once: as often
    as the part that is carried out least, since a transfer may go on beside a whole loop.

    Channels tell such parts from other transfers, but only there: the compiler gives one number to many of its own.
    """
    found: dict[object, Collective] = {}
    for here, times, inside in visits(module):
        for one in here.instructions:
            kind = one.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            spread = inside
            if kind == "all-reduce" and here.name.startswith("all-reduce-scatter"):
                kind, spread = "reduce-scatter", False  # how TPUs write it: a fusion that reduces and keeps a part
            devices = group_size(one.rest)
            size = sum(array.content for name in one.operands for array in here.by_name[name].arrays)
            size *= devices if kind == "all-gather" else 1
            shapes = tuple(array.dims for array in one.arrays)
            key = (_channel(one), shapes) if spread and _channel(one) else (here.name, one.name)
            if devices > 1 and (key not in found or times < found[key].times):
                found[key] = Collective(kind, float(size), devices, times)
    return list(found.values())


def totals(found: Iterable[Collective]) -> dict[str, tuple[float, float]]:
    """Of each kind: how many a step, and their bytes."""
    sums: dict[str, tuple[float, float]] = {}
    for one in found:
        count, size = sums.get(one.kind, (0.0, 0.0))
        sums[one.kind] = (count + one.times, size + one.times * one.bytes)
    return sums


def group_size(text: str) -> int:
    """Devices of a group, from the three ways in which the compiler writes groups."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    if listed:
        return len(listed.group(1).split(","))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text)
    if iota:
        return int(iota.group(2))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", text)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh.group(2)))
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", text)
    return len(re.findall(r"\{\d+,\d+", pairs.group(1) + "}")) if pairs else 1


def _channel(one: Instruction) -> str | None:
    match = re.search(r"channel_id=(\d+)", one.rest)
    return match.group(1) if match else None
