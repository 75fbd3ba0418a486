"""Plans as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from flaxdream.planning.buffers import Buffers
from flaxdream.planning.memory import Memory
from flaxdream.planning.plan import CODE_OF_A_PRODUCT, Compiled, Facts, Plan, make_plan
from flaxdream.planning.refusals import refusal
from flaxdream.planning.remembered import from_dict
from flaxdream.planning.roofline import Estimate
from flaxdream.planning.search import LARGEST, Attempt
from flaxdream.planning.table import advice_text, attempt_line, largest_text, limits_text, plan_text, size
from flaxdream.planning.topologies import attached, find
from tests.planning.programs_text import LOOP

GIB = 2**30
PLAN = Plan(
    "train", "v5e-8", "TPU v5e", 8, 16, True, 12.0 * GIB, 15.75 * GIB,
    Memory({"parameters": 3 * GIB, "optimizer": 6 * GIB}, 100, 10, 3 * GIB, None, 0),
    Estimate(5e12, 1e12, 3e10, 0.05, 0.01, 0.5, 0.08), {"all-reduce": (686.0, 3.2e9)}, None, 20.0, 60.0, False,
)  # fmt: skip
NO_TIME = Estimate(5e12, 0.0, 3e10, math.nan, math.nan, math.nan, None)


def test_the_table_names_memory_by_kind_work_transfers_and_time():
    text = " ".join(plan_text(PLAN).split())
    for line in (
        "train on v5e-8: 8 x TPU v5e, 16 pictures a step",
        "yes 12.00 GiB of 15.75 GiB a device",
        "optimizer 6.00 GiB",
        "operations 5 TFLOP 1 T of them in kernels",
        "all-reduce 2.98 GiB in 686",
        "estimated step 50 ms 320 pictures/s, 50% of the peak",
        "the compiler's schedule 80 ms for ranking",
        "program code not known without --full",
    ):
        assert line in text, text


def test_what_comes_from_the_host_is_said_to_be_left_out_of_the_time():
    assert PLAN.memory is not None
    plan = dataclasses.replace(PLAN, memory=dataclasses.replace(PLAN.memory, host=6 * GIB))
    assert "the host beside it not known 6.00 GiB come and go in each step" in " ".join(plan_text(plan).split())
    assert attempt_line(Attempt({"offload_optimizer": True}, plan)).endswith("without what comes from the host")
    assert "host" not in plan_text(PLAN) + attempt_line(Attempt({"fsdp": 8}, PLAN))


def test_the_guessed_size_of_code_is_said_beside_what_is_needed():
    guessed = dataclasses.replace(PLAN, code_guess=GIB / 2)
    assert "12.00 GiB and about 512.00 MiB of code of 15.75 GiB" in plan_text(guessed)
    assert "12.00 GiB and about 512.00 MiB of code of 15.75 GiB" in attempt_line(Attempt({"fsdp": 8}, guessed))


def test_a_chip_that_is_in_no_table_gets_no_time():
    assert "the speed of this device is in no table" in plan_text(dataclasses.replace(PLAN, estimate=NO_TIME))


@pytest.mark.parametrize(("has_code", "fits"), [(False, False), (True, True)])
def test_there_must_be_room_for_code_that_was_not_generated(has_code, fits):
    buffers = Buffers({}, {}, 0, int(15.75 * GIB), 0 if has_code else None)
    plan = make_plan(Facts("train", {}, (), 8, 1.0), Compiled(LOOP, buffers, None, 1.0, has_code), find("v5e-8"), "no")
    assert (plan.fits, plan.code_guess) == (fits, 0 if has_code else CODE_OF_A_PRODUCT)


def test_it_is_not_known_whether_a_program_fits_a_device_whose_memory_is_not():
    buffers = Buffers({}, {}, 0, GIB, 0)
    compiled = Compiled(LOOP, buffers, None, 1.0, True)
    plan = make_plan(Facts("train", {}, (), 8, 1.0), compiled, attached("cpu", "cpu", 8, None), "no")
    assert plan.fits is None and plan.as_dict()["fits"] is None
    assert "fits not known 1.00 GiB a device; the memory of cpu is not known" in " ".join(plan_text(plan).split())


def test_transfers_that_outlast_the_step_are_said_to_be_the_bound():
    estimate = dataclasses.replace(PLAN.estimate, link_seconds=0.06)
    assert "60 ms if nothing hides them; at best within the step, which they outlast: they are the bound" in " ".join(
        plan_text(dataclasses.replace(PLAN, estimate=estimate)).split()
    )
    assert "outlast" not in plan_text(PLAN)


def test_advice_ends_with_what_is_enough():
    enough = [Attempt({"fsdp": 8}, PLAN), Attempt({"use_8bit_adam": True}, dataclasses.replace(PLAN, program="encode"))]
    too_big = Attempt({"use_ema": False}, dataclasses.replace(PLAN, fits=False))
    assert advice_text([too_big, *enough]) == "Enough: --fsdp 8; or --use_8bit_adam."
    assert advice_text([too_big]).startswith("None of these is enough") and advice_text([]).startswith(
        "It fits as it is"
    )
    assert "(encode)" in attempt_line(enough[1]) and "(" not in attempt_line(enough[0])


def test_a_refusal_is_told_with_its_bytes():
    message = "Ran out of memory in memory space hbm. Used 17.62G of 15.75G hbm."
    compiled = Compiled(None, None, refusal(message), 3.0, False)
    plan = make_plan(Facts("train", {}, (), 8, 1.0), compiled, find("v5e-8"), "bf16")
    assert not plan.fits
    assert "NO  17.62 GiB of 15.75 GiB a device" in plan_text(plan) and message in plan_text(plan)


def test_attempts_are_lines_with_their_flags():
    attempt = Attempt({"fsdp": 8, "gradient_checkpointing": False, "use_8bit_adam": True}, PLAN)
    assert attempt_line(attempt).startswith("fits     --fsdp 8 --no_gradient_checkpointing --use_8bit_adam, 12.00 GiB")
    assert "--train_batch_size 4" in largest_text([Attempt({"train_batch_size": 4}, PLAN)])
    assert largest_text([Attempt({"train_batch_size": LARGEST}, PLAN)]).startswith("At least --train_batch_size 4096")
    failed = Attempt({"train_batch_size": 1}, None, "the compiler failed:\nno space left")
    assert attempt_line(failed) == "failed   --train_batch_size 1: no space left"
    assert largest_text([failed]) == "No batch is known to fit: the compiler failed."
    assert failed.as_dict()["plan"] is None and "no space left" in failed.as_dict()["error"]
    refused = dataclasses.replace(PLAN, fits=False)
    assert largest_text([Attempt({"train_batch_size": 1}, refused)]).startswith("No batch fits")


def test_json_holds_the_plan_and_gives_it_back():
    unscheduled = dataclasses.replace(PLAN.estimate, scheduled_seconds=None)
    for plan in (
        PLAN,
        dataclasses.replace(PLAN, memory=None, estimate=None),
        dataclasses.replace(PLAN, estimate=unscheduled),
    ):
        assert from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    unknown = dataclasses.replace(PLAN, estimate=NO_TIME).as_dict()
    assert unknown["estimate"]["seconds"] is None and unknown["images_per_second"] is None
    assert PLAN.as_dict()["images_per_second"] == 320


def test_the_limits_of_the_numbers_are_said():
    assert "+-20 %" in limits_text()


def test_sizes_are_in_the_unit_that_reads_well():
    assert [size(count) for count in (100, 2048, 3 * 2**20, 5.5 * GIB)] == ["100 B", "2.00 KiB", "3.00 MiB", "5.50 GiB"]
