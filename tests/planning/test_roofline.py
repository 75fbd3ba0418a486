"""Estimated times."""

from __future__ import annotations

import dataclasses
import math

import pytest

from flaxdream.planning.collectives import Collective
from flaxdream.planning.hlo_work import Operation
from flaxdream.planning.roofline import COMPUTE, LINKS, MEMORY, estimate
from flaxdream.planning.topologies import CHIPS, Chip

CHIP = Chip("chip", 100.0, 10.0, 1e9, 4.0, 0.5)


def test_each_instruction_takes_the_longer_of_its_products_and_its_bytes():
    found = estimate([Operation("a", 900.0, 1.0, 2.0), Operation("b", 0.0, 85.0, 1.0)], [], CHIP, "bf16")
    assert found.seconds == pytest.approx(2 * 900 / (COMPUTE * 100) + 85 / (MEMORY * 10))
    assert (found.flops, found.bytes) == (1800, 87)
    assert found.peak_share == pytest.approx(1800 / found.seconds / 100)


def test_copies_that_run_ahead_count_only_where_the_memory_is_always_busy():
    work = Operation("a", 900.0, 0.0, 1.0)
    alone = estimate([work], [], CHIP, "bf16").seconds
    assert estimate([work, Operation("c", 0.0, 8.5, 1.0, True)], [], CHIP, "bf16").seconds == alone
    busy = estimate([work, Operation("c", 0.0, 850.0, 1.0, True)], [], CHIP, "bf16").seconds
    assert busy == pytest.approx(850 / (MEMORY * 10)) and busy > alone


def test_float32_products_run_at_the_chips_share_of_the_peak():
    work = [Operation("a", 900.0, 0.0, 1.0)]
    assert estimate(work, [], CHIP, "no").seconds == 2 * estimate(work, [], CHIP, "bf16").seconds


def test_transfers_stand_beside_the_step():
    found = estimate([], [Collective("all-reduce", 64.0, 2, 1.0)], CHIP, "bf16")
    assert (found.seconds, found.link_seconds) == (0, 64 / (LINKS * 4))


def test_scheduled_cycles_become_seconds_where_the_clock_is_known():
    work = [Operation("a", 1.0, 1.0, 2.0, cycles=500.0)]
    assert estimate(work, [], dataclasses.replace(CHIP, clock=1000.0), "bf16").scheduled_seconds == 1
    assert estimate(work, [], CHIP, "bf16").scheduled_seconds is None
    assert estimate([Operation("a", 1.0, 1.0, 2.0)], [], CHIPS["v5e"], "bf16").scheduled_seconds is None


def test_a_chip_that_is_in_no_table_gets_no_time():
    unknown = Chip("?", math.nan, math.nan, math.nan, math.nan)
    assert math.isnan(estimate([Operation("a", 1.0, 1.0, 1.0)], [], unknown, "bf16").seconds)


def test_newer_chips_are_faster():
    peaks = [CHIPS[name].peak for name in ("v2", "v3", "v5e", "v4", "v5p", "v6e")]
    assert peaks == sorted(peaks)
