"""Compiles a program on this machine's JAX, for its own devices or for a TPU that is not here."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from flaxdream.compiler_options import with_options
from flaxdream.planning.buffers import from_analysis
from flaxdream.planning.hlo_text import parse
from flaxdream.planning.plan import Compiled, Facts
from flaxdream.planning.refusals import refusal
from flaxdream.planning.topologies import ATTACHED, Topology, attached, find

if TYPE_CHECKING:  # the benchmarks' peers compile with this file, where the networks' libraries are not installed
    from flaxdream.planning.programs import Program


def devices_of(name: str) -> tuple[Topology, Sequence[jax.Device]]:
    """The machine of this name and its devices: this one's, or those that the TPU compiler makes up."""
    if name not in ATTACHED:
        from jax.experimental import topologies

        machine = find(name)
        described = topologies.get_topology_desc(topology_name=machine.layout, platform="tpu", **machine.options)
        return machine, described.devices
    try:
        devices = jax.devices(name)
    except RuntimeError as error:
        raise ValueError(
            f"--topology {name}: JAX finds no such device here ({error}). Choose cpu, or a TPU such as v5e-8, which "
            "need not be here; on a machine with an NVIDIA GPU, pip install 'flaxdream[cuda]'."
        ) from None
    stats = devices[0].memory_stats() or {}
    return attached(name, devices[0].device_kind, len(devices), stats.get("bytes_limit")), devices


def lower(program: Program) -> tuple[Any, Facts]:
    """Traced and lowered, and what is known so far."""
    began = time.perf_counter()
    lowered = program.lower()
    seconds = time.perf_counter() - began
    kept = kept_arguments(lowered)
    return lowered, Facts(program.name, program.arguments, kept, program.images, seconds)


def kept_arguments(lowered: Any) -> tuple[str, ...]:
    """The paths of the arguments that a lowered program reads, in its order: JAX drops the others."""
    operations = lowered.compiler_ir("stablehlo").body.operations
    main = next(one for one in operations if one.attributes["sym_name"].value == "main")
    return tuple(_name(str(argument.location)) for argument in main.arguments)


def _name(location: str) -> str:
    """The name in a location such as loc("state['step']")."""
    match = re.search(r'"((?:[^"\\]|\\.)*)"', location)
    assert match is not None, location
    return re.sub(r"\\([0-9A-F]{2})", lambda code: chr(int(code.group(1), 16)), match.group(1))


def compile_lowered(lowered: Any, device: jax.Device | None = None) -> Compiled:
    """Compiled to the end, with a device's options; a program that does not fit is a Refusal, not an error."""
    began = time.perf_counter()
    try:
        done = lowered.compile() if device is None else with_options(device, lowered.compile)
    except Exception as error:  # the class of XLA's errors has no public name
        refused = refusal(str(error))
        if refused is None:
            raise
        return Compiled(None, None, refused, time.perf_counter() - began, False)
    seconds = time.perf_counter() - began
    text = done.as_text()
    return Compiled(text, from_analysis(done.memory_analysis(), parse(text)), None, seconds, True)


def answer(folder: Path, machine: Topology, lowered: Any, facts: Facts, device: jax.Device | None = None) -> None:
    """Writes facts.json, compiles, and writes compiled.json and module.txt; another process waits for the files."""
    write(folder / "facts.json", {"facts": dataclasses.asdict(facts), "machine": dataclasses.asdict(machine)})
    done = compile_lowered(lowered, device)
    if done.text is not None:
        (folder / "module.txt").write_text(done.text, encoding="utf-8")
    write(folder / "compiled.json", dataclasses.asdict(dataclasses.replace(done, text=None)))


def write(path: Path, values: object) -> None:
    """JSON, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values), encoding="utf-8")
    part.rename(path)
