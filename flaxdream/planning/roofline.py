"""An estimate of a step's time from what the compiled program does and what the device can do at most."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from flaxdream.planning.collectives import Collective
from flaxdream.planning.hlo_work import Operation
from flaxdream.planning.topologies import Chip

COMPUTE, MEMORY, LINKS = 0.9, 0.85, 0.5  # shares of the published figures that programs reach
SOURCE = (
    "roofline over the compiled program: each instruction takes the longer of its products at 90 % of the peak and its "
    "bytes at 85 % of the memory's bandwidth, attention kernels' products included. Take it as +-20 %: it knows no "
    "tiling of convolutions and no waiting between instructions, and transfers between devices are not in it. "
    "The compiler's schedule (with --full) charges element-wise work two to five times, kernels nothing: for ranking."
)


@dataclass(frozen=True)
class Estimate:
    """A step on one device. `seconds` is without transfers between devices; NaN for a chip that is not known."""

    flops: float
    kernel_flops: float  # of these, inside kernels
    bytes: float
    seconds: float
    link_seconds: float  # of all transfers, if none overlapped with computation
    peak_share: float  # flops / seconds / the peak
    scheduled_seconds: float | None
    """The compiler's own cycles; None where there is no code or no clock is known."""


def estimate(work: Iterable[Operation], found: Iterable[Collective], chip: Chip, mixed_precision: str) -> Estimate:
    """Sums over the program. Copies that run ahead count only where the memory is busy all the time."""
    peak = chip.peak_of(mixed_precision)
    flops = kernel_flops = moved = seconds = cycles = 0.0
    for one in work:
        flops += one.times * one.flops
        kernel_flops += one.times * one.kernel_flops
        moved += one.times * one.bytes
        cycles += one.times * one.cycles
        if not one.ahead:
            seconds += one.times * max(one.flops / (COMPUTE * peak), one.bytes / (MEMORY * chip.bandwidth))
    seconds = max(seconds, moved / (MEMORY * chip.bandwidth)) if not math.isnan(chip.peak) else math.nan
    sent = sum(one.sent for one in found)
    share = flops / seconds / peak if seconds else math.nan
    scheduled = cycles / chip.clock if cycles and chip.clock else None
    return Estimate(flops, kernel_flops, moved, seconds, sent / (LINKS * chip.links), share, scheduled)
