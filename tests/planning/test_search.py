"""Searches that try settings."""

from __future__ import annotations

import dataclasses
import math

import pytest

from flaxdream.config import DreamBoothConfig, TextToImageConfig
from flaxdream.planning.measuring import CompileError
from flaxdream.planning.search import (
    LARGEST,
    advise,
    attempt,
    best,
    changes,
    first_that_does_not_fit,
    largest_batch,
)
from tests.planning.test_table import PLAN


def machine(room, cost):
    """Measures by a formula, and keeps what was asked."""
    asked = []

    def measure(config):
        asked.append(config)
        return plan_of(cost(config), room)

    return measure, asked


def plan_of(needed, room, devices=1):
    return dataclasses.replace(
        PLAN,
        needed=needed,
        limit=room,
        devices=devices,
        fits=None if math.isnan(room) else needed <= room,
    )


def refused(devices=1):
    """A plan that does not fit, by an amount that is not known."""
    return dataclasses.replace(PLAN, needed=None, fits=False, devices=devices)


@pytest.mark.parametrize("room", [0, 1, 2, 3, 7, 8, 13, 100])
def test_the_largest_batch_is_found_and_nothing_is_tried_twice(room):
    measure, asked = machine(room, lambda config: config.train_batch_size)
    attempts = largest_batch(DreamBoothConfig(), measure)
    found = best(attempts)
    assert (0 if found is None else found.changes["train_batch_size"]) == room
    sizes = [config.train_batch_size for config in asked]
    assert len(sizes) == len(set(sizes)) == len(attempts)


def test_the_search_ends_at_the_largest_batch_that_it_tries():
    measure, asked = machine(10 * LARGEST, lambda config: config.train_batch_size)
    attempts = largest_batch(DreamBoothConfig(), measure)
    assert best(attempts).changes["train_batch_size"] == asked[-1].train_batch_size == LARGEST


def test_no_largest_batch_is_named_for_a_device_whose_memory_is_not_known():
    measure, asked = machine(math.nan, lambda config: config.train_batch_size)
    with pytest.raises(ValueError, match="the memory of TPU v5e is not known"):
        largest_batch(DreamBoothConfig(), measure)
    assert len(asked) == 1


def test_advice_tries_each_change_alone_and_stops_there_when_one_is_enough():
    config = DreamBoothConfig(center_crop=True, mixed_precision="bf16")
    measure, _ = machine(1, lambda config: config.train_batch_size)
    attempts = list(advise(config, refused(devices=8), measure))
    assert [one.changes for one in attempts] == changes(config, 8)
    assert [one.changes for one in attempts if one.fits] == [{"train_batch_size": 1, "gradient_accumulation_steps": 4}]


def failing(at):
    """Measures, but the compiler fails where `at` says."""

    def measure(config):
        if at(config):
            raise CompileError("the compiler failed:\nno space left")
        return plan_of(0 if config.use_8bit_adam or config.train_batch_size < 3 else 2, 1)

    return measure


def cannot_be(config):
    raise ValueError(f"--fsdp {config.fsdp} does not divide the devices")


def test_a_compiler_that_fails_at_one_attempt_does_not_end_the_search():
    config = DreamBoothConfig(center_crop=True, train_batch_size=4)
    attempts = list(advise(config, refused(), failing(lambda config: config.remat == "full")))
    assert [one.changes for one in attempts] == changes(config, 1)
    (failed,) = (one for one in attempts if one.plan is None)
    assert failed.changes["gradient_checkpointing_policy"] == "full" and "no space left" in failed.error
    assert attempt({"fsdp": 3}, config, cannot_be).error == "--fsdp 3 does not divide the devices"
    assert any(one.fits and one.changes == {"use_8bit_adam": True} for one in attempts)
    assert best(largest_batch(config, failing(lambda config: config.train_batch_size == 4))).changes == {
        "train_batch_size": 2
    }


def test_advice_puts_changes_on_top_of_each_other_when_none_is_enough():
    def cost(config):
        return config.train_batch_size + (config.remat == "none") + (0 if config.use_8bit_adam else 1)

    measure, _ = machine(1, cost)
    config = DreamBoothConfig(center_crop=True, mixed_precision="bf16")
    attempts = list(advise(config, plan_of(cost(config), 1), measure))
    assert [one.fits for one in attempts] == [False] * (len(attempts) - 1) + [True]
    last = attempts[-1].changes
    assert last["train_batch_size"] == 1 and last["use_8bit_adam"] and last["gradient_checkpointing_policy"] == "blocks"


def test_what_makes_it_worse_or_cannot_be_is_not_kept_for_the_next_attempt():
    """Accumulation that costs more than its smaller batch saves, and a device count that fsdp does not divide."""

    def cost(config):
        if config.fsdp > 1:
            raise CompileError("the compiler failed")
        saved = {"none": 0, "blocks": 1, "full": 2}[config.remat] + config.use_8bit_adam + config.offload_optimizer
        return 10 - saved + (3 if config.gradient_accumulation_steps > 1 else 0)

    config = DreamBoothConfig(center_crop=True, mixed_precision="bf16", train_batch_size=2)
    measure, _ = machine(6, cost)
    attempts = list(advise(config, plan_of(10, 6, devices=8), measure))
    expected = {"gradient_checkpointing_policy": "full", "use_8bit_adam": True, "offload_optimizer": True}
    assert attempts[-1].fits and attempts[-1].changes == expected
    assert len({str(one.changes) for one in attempts}) == len(attempts)


def test_where_no_amounts_are_known_changes_are_kept():
    def measure(config):
        return dataclasses.replace(refused(), fits=bool(config.use_8bit_adam and config.remat == "full"))

    config = DreamBoothConfig(center_crop=True, mixed_precision="bf16", train_batch_size=1)
    last = list(advise(config, refused(), measure))[-1]
    assert last.fits and last.changes["use_8bit_adam"]


def test_nothing_is_advised_for_a_device_whose_memory_is_not_known():
    with pytest.raises(ValueError, match="--advise: the memory of TPU v5e is not known"):
        list(advise(DreamBoothConfig(), plan_of(1, math.nan), lambda config: pytest.fail("measured")))


def test_a_run_is_as_large_as_the_first_of_its_programs_that_does_not_fit():
    asked = []

    def plans(*fits):
        asked.clear()
        for number, one in enumerate(fits):
            asked.append(number)
            yield dataclasses.replace(PLAN, program=str(number), fits=one)

    assert first_that_does_not_fit(plans(True, True, True)).program == "0" and asked == [0, 1, 2]
    assert first_that_does_not_fit(plans(True, False, True)).program == "1" and asked == [0, 1]
    assert first_that_does_not_fit(plans(True, None)).program == "1"


def test_only_what_would_change_something_is_tried():
    config = DreamBoothConfig(
        train_batch_size=1, mixed_precision="bf16", gradient_checkpointing_policy="full", random_flip=True,
        use_8bit_adam=True, offload_optimizer=True, params_dtype="bfloat16",
    )  # fmt: skip
    assert changes(config, 1) == []
    assert changes(config, 4) == [{"fsdp": 4}]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_change_is_how_it_is_already(checkpointing):
    config = DreamBoothConfig(gradient_checkpointing=checkpointing, train_batch_size=4)
    for change in changes(config, devices=8):
        assert change and all(getattr(config, name) != value for name, value in change.items())
    policies = [change for change in changes(config, devices=8) if "gradient_checkpointing_policy" in change]
    assert len(policies) == (1 if checkpointing else 2)


def test_bfloat16_parameters_come_after_8_bit_adam_and_slicing_where_pictures_are_encoded_in_the_step():
    found = changes(DreamBoothConfig(random_flip=True), 8)
    names = [name for change in found for name in change]
    assert names.index("use_8bit_adam") + 1 == names.index("params_dtype") < names.index("offload_optimizer")
    assert {"vae_slicing": True} in found
    assert {"vae_slicing": True} not in changes(DreamBoothConfig(center_crop=True), 8)
    assert {"vae_slicing": True} not in changes(DreamBoothConfig(random_flip=True, train_batch_size=1), 8)


@pytest.mark.parametrize(
    ("batch", "smaller"), [(1, []), (3, [1]), (4, [2, 1]), (5, [1]), (6, [3, 2, 1]), (12, [6, 4, 3, 2, 1])]
)
def test_smaller_batches_go_down_to_one_and_leave_the_pictures_of_a_step_as_they_are(batch, smaller):
    config = DreamBoothConfig(train_batch_size=batch, gradient_accumulation_steps=2)
    found = [change for change in changes(config, 1) if "train_batch_size" in change]
    assert [change["train_batch_size"] for change in found] == smaller
    assert all(change["train_batch_size"] * change["gradient_accumulation_steps"] == 2 * batch for change in found)


def test_a_center_crop_is_advised_where_latents_would_then_stay_and_so_never_for_a_stream():
    crop = {"center_crop": True}
    assert crop in changes(DreamBoothConfig(), 1) and crop in changes(TextToImageConfig(), 1)
    for config in (
        TextToImageConfig(streaming=True), DreamBoothConfig(cache_latents="no"), DreamBoothConfig(random_flip=True),
        DreamBoothConfig(cache_latents="yes"),
    ):  # fmt: skip
        assert crop not in changes(config, 1)
