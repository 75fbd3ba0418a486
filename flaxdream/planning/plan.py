"""The answer: what a program needs and does on a machine."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from flaxdream.planning import collectives as transfers
from flaxdream.planning.buffers import Buffers
from flaxdream.planning.hlo_text import parse
from flaxdream.planning.hlo_work import operations
from flaxdream.planning.memory import Memory, memory
from flaxdream.planning.refusals import Refusal
from flaxdream.planning.roofline import Estimate, estimate
from flaxdream.planning.topologies import Topology

CODE_OF_A_PRODUCT = 0.3 * 2**20  # bytes; SD 1.5's step of some 1,000 on v5e has 234 MiB, its VAE's encoder of 34 has 13


@dataclass(frozen=True)
class Compiled:
    """What the compiler gave. `text` and `buffers` are None where it refused before it had planned the memory."""

    text: str | None
    buffers: Buffers | None
    refusal: Refusal | None
    seconds: float
    has_code: bool
    """Whether it went on to the end; else `seconds` is what the plan of the memory took."""


@dataclass(frozen=True)
class Facts:
    """What is known of a program before it is compiled."""

    program: str
    arguments: dict[str, int]
    """Bytes on a device of each, by path."""
    kept: tuple[str, ...]
    """The paths of those that the program reads, in its order."""
    images: int
    lower_seconds: float


@dataclass(frozen=True)
class Plan:
    """One program on one machine. Bytes and operations are those of one device."""

    program: str
    machine: str
    chip: str
    devices: int
    images: int
    """Pictures of a step, on all devices."""
    fits: bool | None
    """None where the device's memory is not known."""
    needed: float | None
    """Bytes on a device, None where the compiler named none."""
    limit: float
    memory: Memory | None
    estimate: Estimate | None
    collectives: dict[str, tuple[float, float]]
    """Of each kind: how many a step, and their bytes."""
    refusal: str | None
    lower_seconds: float
    compile_seconds: float
    has_code: bool
    code_guess: float = 0.0
    """Bytes of code that was not generated, by the program's products; `fits` leaves room for it."""

    @property
    def images_per_second(self) -> float:
        """Of all devices, transfers between them overlapped; NaN where no time is known."""
        return self.images / self.estimate.seconds if self.estimate and self.estimate.seconds else math.nan

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = dataclasses.asdict(self) | {"images_per_second": self.images_per_second}
        return _plain(values)


def make_plan(facts: Facts, compiled: Compiled, topology: Topology, mixed_precision: str) -> Plan:
    """What the compiler's text and buffers say. It fits if the compiler takes it and all that lies there has room."""
    found: dict[str, tuple[float, float]] = {}
    lies = cost = None
    limit, needed, code_guess = topology.chip.memory, None, 0.0
    if compiled.text is not None and compiled.buffers is not None:
        module = parse(compiled.text)
        sent = transfers.collectives(module)
        found = transfers.totals(sent)
        done = list(operations(module))
        cost = estimate(done, sent, topology.chip, mixed_precision)
        lies = memory(compiled.buffers, facts.arguments, facts.kept)
        needed = float(lies.total)
        code_guess = 0.0 if compiled.has_code else CODE_OF_A_PRODUCT * sum(1 for one in done if one.flops)
    if compiled.refusal is not None:
        limit, needed = compiled.refusal.available or limit, compiled.refusal.needed or needed
    return Plan(
        program=facts.program,
        machine=topology.name,
        chip=topology.chip.name,
        devices=topology.devices,
        images=facts.images,
        fits=_fits(compiled.refusal, needed, code_guess, limit),
        needed=needed,
        limit=limit,
        memory=lies,
        estimate=cost,
        collectives=found,
        refusal=None if compiled.refusal is None else compiled.refusal.message,
        lower_seconds=facts.lower_seconds,
        compile_seconds=compiled.seconds,
        has_code=compiled.has_code,
        code_guess=code_guess,
    )


def _fits(refused: Refusal | None, needed: float | None, code: float, limit: float) -> bool | None:
    if refused is not None:
        return False
    if needed is None:
        return True
    return None if math.isnan(limit) else needed + code <= limit


def _plain(value: Any) -> Any:
    """NaN is no JSON: None."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
