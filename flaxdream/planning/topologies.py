"""Names of machines: what the TPU compiler calls them, and what one of their devices can do.

A device is what JAX shows: a core on v2 and v3, a chip elsewhere. Peaks and bandwidths are the makers' published ones
(Cloud TPU's pages of each generation, NVIDIA's data sheets; dense bfloat16), a half of the chip's for a core; the links
of v2 and v3, four of 496 and 656 Gbit/s a chip, are those of Jouppi et al. 2020, "A domain-specific supercomputer for
training deep neural networks". A TPU's memory is what its compiler gives to programs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from flaxdream.config.checks import suggestion

GB, GIB = 10**9, 2**30
ATTACHED = ("cpu", "gpu")


@dataclass(frozen=True)
class Chip:
    """One device."""

    name: str
    peak: float  # FLOP/s, dense bfloat16
    bandwidth: float  # bytes/s of its memory
    memory: float  # bytes
    links: float  # bytes/s that it sends to its neighbours, all links together
    float32_share: float = 1.0  # of the peak for float32 products as JAX runs them by default
    clock: float | None = None  # Hz, of TPUs: the compiler schedules in cycles

    def peak_of(self, mixed_precision: str) -> float:
        """FLOP/s of products computed as --mixed_precision says."""
        return self.peak * (self.float32_share if mixed_precision == "no" else 1.0)


@dataclass(frozen=True)
class Topology:
    """A machine: its name here, the compiler's name for it and its number of devices."""

    name: str
    chip: Chip
    devices: int
    layout: str  # what `jax.experimental.topologies` calls it
    options: dict[str, Any] = field(default_factory=dict)


CHIPS = {
    # peak, memory bandwidth, memory, links
    "v2": Chip("TPU v2 core", 22.5e12, 350 * GB, 7.48 * GIB, 124 * GB, clock=0.70e9),
    "v3": Chip("TPU v3 core", 61.5e12, 450 * GB, 15.48 * GIB, 164 * GB, clock=0.94e9),
    "v4": Chip("TPU v4", 275e12, 1228 * GB, 30.75 * GIB, 300 * GB, clock=1.05e9),
    "v5e": Chip("TPU v5e", 197e12, 819 * GB, 15.75 * GIB, 200 * GB, clock=1.50e9),
    "v5p": Chip("TPU v5p", 459e12, 2765 * GB, 95.74 * GIB, 600 * GB, clock=1.75e9),
    "v6e": Chip("TPU v6e", 918e12, 1640 * GB, 31.25 * GIB, 448 * GB, clock=1.75e9),
}
# NVIDIA cards by whole words of their device kind, as a pattern; the first that fits counts. Float32 products run as
# TF32, at half the rate, where there is TF32.
CARDS = (
    ("H200", Chip("H200", 989e12, 4800 * GB, 141e9, 450 * GB, 0.5)),
    ("H100 PCIe", Chip("H100 PCIe", 756e12, 2000 * GB, 80e9, 300 * GB, 0.5)),
    ("H100", Chip("H100", 989e12, 3350 * GB, 80e9, 450 * GB, 0.5)),
    ("A100-SXM4?-80GB", Chip("A100 80 GB", 312e12, 2039 * GB, 80e9, 300 * GB, 0.5)),
    ("A100 80GB PCIe", Chip("A100 80 GB PCIe", 312e12, 1935 * GB, 80e9, 300 * GB, 0.5)),
    ("A100", Chip("A100", 312e12, 1555 * GB, 40e9, 300 * GB, 0.5)),
    ("L40S", Chip("L40S", 362e12, 864 * GB, 48e9, 32 * GB, 0.5)),
    ("L40", Chip("L40", 181e12, 864 * GB, 48e9, 32 * GB, 0.5)),
    ("L4", Chip("L4", 121e12, 300 * GB, 24e9, 32 * GB, 0.5)),
    ("T4", Chip("T4", 65e12, 320 * GB, 16e9, 16 * GB, 0.125)),
    ("V100", Chip("V100", 125e12, 900 * GB, 16e9, 150 * GB, 0.125)),
)
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16", 6144: "16x16x24",
}  # fmt: skip
_SQUARES = {4: "2x2", 16: "4x4", 64: "8x8", 128: "8x16", 256: "16x16", 512: "16x32", 1024: "32x32"}


def _machines() -> dict[str, Topology]:
    """By Cloud name. v2, v3, v4 and v5p names count cores, two a chip; v5e and v6e names count chips."""
    found: dict[str, Topology] = {}

    def add(name: str, kind: str, devices: int, layout: str, **options: Any) -> None:
        found[name] = Topology(name, CHIPS[kind], devices, layout, options)

    for chips, shape in _SQUARES.items():
        for kind in ("v2", "v3"):
            if not (kind == "v2" and chips > 256):
                add(f"{kind}-{2 * chips}", kind, 2 * chips, f"{kind}:{shape}" + ("x1" if kind == "v2" else ""))
    for chips, shape in _CUBES.items():
        if chips <= 2048:  # a whole pod
            add(f"v4-{2 * chips}", "v4", chips, f"v4:{shape}", chip_config_name="megacore")
        add(f"v5p-{2 * chips}", "v5p", chips, f"v5p:{shape}")
    for chips, shape in _FLAT.items():
        host = (1, 1, 1) if chips == 1 else (2, 4, 1) if chips == 8 else (2, 2, 1)
        for kind in ("v5e", "v6e"):
            add(f"{kind}-{chips}", kind, chips, f"{kind}:{shape}", chips_per_host_bounds=host)
    return found


MACHINES = _machines()


def find(name: str) -> Topology:
    """The machine of a name such as v5e-8, or v5e for the same; ValueError with the list of names."""
    known = name.lower().replace("v5litepod", "v5e")
    known = f"{known}-8" if known in CHIPS else known
    if known not in MACHINES:
        close = suggestion(known, [*MACHINES, *ATTACHED])
        raise ValueError(
            f"--topology {name!r} is not known{close}. TPUs: {', '.join(MACHINES)}. "
            f"The devices of this machine: {' or '.join(ATTACHED)}."
        )
    return MACHINES[known]


def attached(platform: str, device_kind: str, count: int, memory: float | None) -> Topology:
    """The devices of this machine; a chip that is in no table has no peak, and no time is estimated for it."""
    chip = next((chip for words, chip in CARDS if re.search(rf"\b{words}\b", device_kind, re.IGNORECASE)), None)
    if chip is None:
        chip = Chip(device_kind, math.nan, math.nan, math.nan, math.nan)
    return Topology(platform, chip if memory is None else _with_memory(chip, memory), count, platform)


def _with_memory(chip: Chip, memory: float) -> Chip:
    return dataclasses.replace(chip, memory=memory)
