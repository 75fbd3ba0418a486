"""The loop, in order: data, step, the metrics of the step before, pictures, checkpoint. The device never waits."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from flaxdream.training.prefetch import prefetched
from flaxdream.training.step import Batch, State
from flaxdream.training.step_clock import StepClock


class DivergedError(RuntimeError):
    """The loss or the gradient norm is not finite; the state was not saved."""


@dataclass(frozen=True)
class Hooks:
    """What happens around the steps. `step` is always the number of steps taken."""

    watch: Callable[[int, Mapping[str, float]], None]
    preview: Callable[[int, State], None]
    preview_due: Callable[[int], bool]
    evaluate: Callable[[int, State], bool]  # True ends the training early
    evaluate_due: Callable[[int], bool]
    save: Callable[[int, State], None]
    save_due: Callable[[int], bool]
    stopped: Callable[[], bool]
    last_good: Callable[[], str]


@dataclass(frozen=True)
class Outcome:
    """The final state and how the time went, in seconds."""

    state: State
    step: int
    stopped: bool
    seconds: float
    step_seconds: float  # in steps that were not compiled; no pictures, evaluation and saves
    data_seconds: float  # of these the device waited for a batch


def run(
    train_step: Callable[..., tuple[State, dict[str, Any]]],
    state: State,
    frozen: Any,
    batches: Iterator[Batch],
    *,
    start: int,
    stop: int,
    hooks: Hooks,
) -> Outcome:
    """Takes the steps from `start` up to `stop`, or until `hooks.stopped` or `hooks.evaluate` says so.

    A step's metrics are read while the next one runs, so nothing waits; before a picture or a checkpoint they are
    read at once, so that a state that is not finite is never saved. The batches are made ahead, and closed at the end.
    """
    began = time.perf_counter()
    pending: tuple[int, dict[str, Any]] | None = None

    def flush() -> None:
        nonlocal pending
        if pending is not None:
            (step, metrics), pending = pending, None
            hooks.watch(step, _finite(step, jax.device_get(metrics), hooks.last_good))

    step, stopped, ended = start, False, False
    with contextlib.closing(prefetched(batches)) as ready, contextlib.closing(StepClock()) as clock:
        while step < stop and not stopped and not ended:
            batch = clock.batch(ready)
            state, metrics = train_step(state, frozen, batch)
            clock.began(metrics)
            flush()
            step += 1
            pending = (step, metrics)
            stopped = hooks.stopped()
            saves = hooks.save_due(step) or stopped or step == stop
            if saves or hooks.evaluate_due(step) or hooks.preview_due(step):
                flush()
            clock.taken()
            if hooks.evaluate_due(step) and not stopped:
                ended = hooks.evaluate(step, state)
            if hooks.preview_due(step) and not stopped:
                hooks.preview(step, state)
            if saves or ended:
                hooks.save(step, state)
    return Outcome(state, step, stopped, time.perf_counter() - began, clock.seconds, clock.data_seconds)


def _finite(step: int, metrics: Mapping[str, Any], last_good: Callable[[], str]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    checked = ("loss",) if "loss_scale" in values else ("loss", "grad_norm")  # a scaled step skips what overflows
    bad = [f"{name} {values[name]}" for name in checked if not math.isfinite(values[name])]
    if bad:
        raise DivergedError(
            f"step {step} gave {' and '.join(bad)}, so training stops and this state is not saved. "
            f"Last good checkpoint: {last_good()}. Try a lower --learning_rate, --max_grad_norm 1, or "
            "--mixed_precision bf16 instead of fp16."
        )
    return values
