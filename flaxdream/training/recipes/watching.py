"""A run's metrics to the progress bar and the trackers, and what its summary says of time and memory."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

from flaxdream.config.run import RunConfig
from flaxdream.training.learning_rate import Schedule
from flaxdream.training.loop import Outcome
from flaxdream.training.recipes.optimization import learning_rates
from flaxdream.training.trackers import Trackers


def progress_bar(start: int, steps: int) -> tqdm:
    """The bar of the steps; its time left goes by the mean of all steps but the first."""
    return tqdm(
        total=steps,
        initial=start,
        desc="steps",
        disable=jax.process_index() != 0,
        dynamic_ncols=True,
        smoothing=0,
        mininterval=0.2 if sys.stderr.isatty() else 2.0,  # seconds; a log file or a notebook keeps every line
    )


class Watch:
    """The loop's `watch` hook."""

    def __init__(
        self,
        config: RunConfig,
        batch_rows: int,
        schedules: dict[str, Schedule],
        progress: tqdm,
        trackers: Trackers | None,
        began: float,
    ):
        """`began` is when the run started, by time.perf_counter."""
        self._config, self._rows, self._schedules = config, batch_rows, schedules
        self._progress, self._trackers = progress, trackers
        self._began, self._since = began, time.perf_counter()
        self._speeds: list[float] = []  # pictures a second, a step each
        self._first_step: float | None = None
        self.held_out: float | None = None  # the last held-out loss

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.perf_counter()
        speed = self._rows / max(now - self._since, 1e-9)
        self._since = now
        if self._first_step is None:  # it was compiled, which says nothing of the time that is left
            self._first_step = now
            if not self._progress.disable:
                self._progress.unpause()
                self._progress.initial += 1
        self._speeds.append(speed)
        shown: dict[str, object] = {"loss": f"{metrics['loss']:.4f}"}
        if self.held_out is not None:
            shown["held_out"] = f"{self.held_out:.4f}"
        # Before the update, which draws the bar; after it, the bar would show the numbers of the step before.
        self._progress.set_postfix({**shown, "images_s": f"{speed:.2f}"}, refresh=False)
        self._progress.update()
        if self._trackers is not None:
            rates = learning_rates(self._config, self._schedules, step)
            self._trackers.log(step, {**metrics, **rates, "images_per_second": speed})

    def busy(self, doing: str) -> None:
        """Says on the bar what goes on that is no step, until the next one."""
        self._progress.set_postfix_str(doing)

    def say(self, text: str) -> None:
        """Prints above the bar, on the first host."""
        if not self._progress.disable:
            self._progress.write(text)

    def evaluated(self, step: int, loss: float) -> None:
        """A held-out loss, which stands beside the step's own metrics."""
        self.held_out = loss
        if self._trackers is not None:
            self._trackers.log(step, {"held_out_loss": loss})

    def summary(self, outcome: Outcome) -> dict[str, Any]:
        """The speed is that of the median step, so compiling and pictures are left out.

        `host_wait_share` is the share of the steps' time, compiled ones, pictures, evaluation and saves left out, in
        which the device had ended a step and its next batch was not there. None of a run that compiled each step.
        """
        memory = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
        summary = {
            "steps": outcome.step,
            "seconds": round(outcome.seconds, 2),
            "total_seconds": round(time.perf_counter() - self._began, 2),
            "seconds_to_first_step": round(self._first_step - self._began, 2) if self._first_step else None,
            "images_per_second": round(statistics.median(self._speeds), 3) if self._speeds else None,
            "host_wait_share": round(outcome.data_seconds / outcome.step_seconds, 4) if outcome.step_seconds else None,
            "peak_memory_bytes": max((peak for peak in memory if peak), default=None),
            "devices": jax.device_count(),
            "device_kind": jax.devices()[0].device_kind,
        }
        return {name: value for name, value in summary.items() if value is not None}
