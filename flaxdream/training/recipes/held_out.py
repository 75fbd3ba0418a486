"""The held-out loss along a run, and the early stop on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxdream.arrays import Params
from flaxdream.training.metrics_file import read_metrics
from flaxdream.training.recipes.task import Task
from flaxdream.training.recipes.watching import Watch
from flaxdream.training.step import State


class HeldOut:
    """The loop's `evaluate` hook: measures the loss when it is due, and says when to stop.

    Noise and timesteps are the same at every measurement, so the losses can be compared along a run and between
    runs. With `early_stopping_patience` n the run ends when n measurements in a row have not been the lowest.
    """

    def __init__(self, task: Task, for_use: Callable[[State], Params], watch: Watch, start: int):
        self._task, self._for_use, self._watch = task, for_use, watch
        self._every = getattr(task.config, "held_out_loss_steps", 0)
        self.ended = False
        self._patience = getattr(task.config, "early_stopping_patience", None)
        earlier = read_metrics(Path(task.config.output_dir) / "metrics.jsonl") if start else []
        self._losses = [(row["step"], row["held_out_loss"]) for row in earlier if row.get("held_out_loss") is not None]

    def due(self, step: int) -> bool:
        """Whether the loss is measured after `step` steps; after none and after the last it is."""
        return bool(self._every) and (step % self._every == 0 or step == self._task.steps)

    def __call__(self, step: int, state: State) -> bool:
        """Measures the loss; True if the run is to end here."""
        loss = self._task.held_out_loss(self._for_use(state))
        if loss is None:
            return False
        self._losses.append((step, loss))
        self._watch.evaluated(step, loss)
        losses = [loss for _, loss in self._losses]
        self.ended = self._patience is not None and len(losses) - 1 - losses.index(min(losses)) >= self._patience
        return self.ended

    def summary(self) -> dict[str, Any]:
        """First, last and lowest loss, for summary.json."""
        if not self._losses:
            return {}
        step, lowest = min(self._losses, key=lambda pair: pair[1])
        first, last = self._losses[0][1], self._losses[-1][1]
        return {"held_out_loss": {"first": first, "last": last, "lowest": lowest, "lowest_step": step}}
