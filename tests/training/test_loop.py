"""The loop around a step: how its time is counted, and what is left when it ends."""

from __future__ import annotations

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdream.training import loop, step_clock


def hooks(**changes):
    return loop.Hooks(
        **{
            "watch": lambda step, metrics: None,
            "preview": lambda step, state: None,
            "preview_due": lambda step: False,
            "evaluate": lambda step, state: False,
            "evaluate_due": lambda step: False,
            "save": lambda step, state: None,
            "save_due": lambda step: False,
            "stopped": lambda: False,
            "last_good": lambda: "none",
            **changes,
        }
    )


@pytest.fixture
def slow_step(monkeypatch):
    """A step of 30 ms that runs beside the loop as on a device; its first call is compiled for 300 ms."""
    calls = []

    class Result(float):
        ready = 0.0

    def step(state, frozen, batch):
        if not calls:
            time.sleep(0.3)
        result = Result(1.0)
        result.ready = max([time.perf_counter(), *calls]) + 0.03
        calls.append(result.ready)
        return state + 1, {"loss": result, "grad_norm": 1.0}

    def wait(metrics):
        time.sleep(max(0.0, metrics["loss"].ready - time.perf_counter()))
        return metrics

    monkeypatch.setattr(jax, "block_until_ready", wait)
    monkeypatch.setattr(jax, "device_get", wait)
    return step


def batches(seconds):
    while True:
        time.sleep(seconds)
        yield {"row": np.zeros(2)}


def share(step, seconds, **changes):
    outcome = loop.run(step, 0, {}, batches(seconds), start=0, stop=20, hooks=hooks(**changes))
    assert outcome.state == outcome.step == 20
    return outcome, outcome.data_seconds / outcome.step_seconds


def test_a_device_whose_batches_are_made_in_time_does_not_wait(slow_step):
    outcome, waited = share(slow_step, 0.015)
    assert waited < 0.05
    assert 0.5 < outcome.step_seconds < outcome.seconds - 0.25


def test_a_device_waits_as_long_as_a_batch_takes_longer_than_a_step(slow_step):
    assert 0.35 < share(slow_step, 0.06)[1] < 0.6


def test_pictures_evaluation_and_saves_are_no_time_of_the_steps(slow_step):
    often = {"preview_due": lambda step: step % 5 == 0, "save_due": lambda step: step % 5 == 1}
    rest = {"preview": lambda step, state: time.sleep(0.2), "save": lambda step, state: time.sleep(0.1)}
    outcome, _ = share(slow_step, 0.0, **often, **rest)
    assert 0.5 < outcome.step_seconds < 1.0 < outcome.seconds


def test_each_new_shape_is_compiled_and_not_counted():
    rows = ({"row": jnp.zeros(1 + number)} for number in range(3))
    outcome = loop.run(
        lambda state, frozen, batch: (state, {"loss": jnp.ones(()), "grad_norm": jnp.ones(())}),
        0,
        {},
        rows,
        start=0,
        stop=3,
        hooks=hooks(),
    )
    assert (outcome.step_seconds, outcome.data_seconds) == (0, 0)


@pytest.mark.parametrize("way", ["stopped", "KeyboardInterrupt", "diverged"])
def test_nothing_runs_on_when_the_loop_leaves_early(way):
    def step(state, frozen, batch):
        if way == "KeyboardInterrupt":
            raise KeyboardInterrupt
        return state, {"loss": jnp.array(jnp.nan if way == "diverged" else 1.0), "grad_norm": jnp.ones(())}

    arguments = dict(start=0, stop=9, hooks=hooks(stopped=lambda: way == "stopped"))
    source = batches(0.0)
    if way == "stopped":
        assert loop.run(step, 0, {}, source, **arguments).stopped
    else:
        with pytest.raises(KeyboardInterrupt if way == "KeyboardInterrupt" else loop.DivergedError):
            loop.run(step, 0, {}, source, **arguments)
    assert next(source, None) is None  # closed
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("flaxdream-prefetch")]


def test_the_end_of_a_step_is_seen_when_it_comes():
    clock = step_clock.StepClock()
    source = iter([{"row": np.zeros(1)}] * 2)
    clock.batch(source)
    clock.began({"loss": jnp.ones(())})
    time.sleep(0.05)
    clock.batch(source)
    clock.taken()
    clock.close()
    assert clock.seconds > 0 and clock.data_seconds < 0.01  # the loop itself was away, not the data
