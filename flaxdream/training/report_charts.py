"""Which charts a run's metrics make, and which lines are in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TITLES = {"grad_norm": "Gradient norm", "images_per_second": "Images per second"}
NOT_GROUPS = ("loss_scale",)


@dataclass(frozen=True)
class Line:
    """One line: points in the order of x. `style` is a class of report.css."""

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str
    has_dots: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    lines: tuple[Line, ...]
    from_zero: bool = False
    note: str = ""


def charts(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The loss with its groups and the validation loss; learning rates; and one chart for each other number."""
    series = _series(metrics)
    losses = {name: series.pop(name) for name in list(series) if _is_loss(name)}
    rates = {name: series.pop(name) for name in list(series) if name == "lr" or name.startswith("lr_")}
    found = [_loss_chart(losses)] if losses else []
    if rates:
        lines = tuple(Line(_words(n), x, y, f"line-{i % 5}") for i, (n, (x, y)) in enumerate(rates.items()))
        found.append(Chart("Learning rate", lines, from_zero=True))
    for name in [name for name in TITLES if name in series] + [name for name in series if name not in TITLES]:
        title = TITLES.get(name) or _words(name).capitalize()
        found.append(Chart(title, _with_mean("each step", *series[name]), from_zero=True))
    return found


def _is_loss(name: str) -> bool:
    return (name == "loss" or name.startswith(("loss_", "validation_loss"))) and name not in NOT_GROUPS


def _series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of each number; what is null (not finite) is left out."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in metrics:
        for name, value in row.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                points.setdefault(name, []).append((row["step"], float(value)))
    return {name: (np.array([p[0] for p in ps]), np.array([p[1] for p in ps])) for name, ps in points.items()}


def _loss_chart(losses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Chart:
    """The loss itself, then the means of its groups, then the validation losses as they are, one point each."""
    lines = list(_with_mean("loss", *losses["loss"])) if "loss" in losses else []
    others = sorted((name for name in losses if name != "loss"), key=lambda name: name.startswith("validation"))
    for index, name in enumerate(others):
        x, y = losses[name]
        style = f"line-{1 + index % 4}"
        if name.startswith("validation_loss"):
            words = _words(name.replace("validation_loss", "validation"))
            lines.append(Line(words, x, y, style, has_dots=True))
        else:
            lines.append(Line(_words(name.removeprefix("loss_")), x, running_mean(y), style))
    width = mean_width(max(len(x) for x, _ in losses.values()))
    return Chart("Loss", tuple(lines), note=f"Smooth lines are means over {width} steps." if width > 1 else "")


def _with_mean(name: str, x: np.ndarray, y: np.ndarray) -> tuple[Line, ...]:
    """The values alone if they are few or all the same, else faint under their running mean."""
    if mean_width(len(y)) == 1 or np.ptp(y) == 0:
        return (Line(name, x, y, "line-0"),)
    mean = f"{name}, smoothed" if name == "loss" else "mean"
    return Line(name, x, y, "faint"), Line(mean, x, running_mean(y), "line-0")


def mean_width(count: int) -> int:
    """Steps of the running mean, odd: about twice the root of their number, which calms short runs and long ones."""
    return 2 * math.isqrt(count) + 1 if count >= 10 else 1


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over `mean_width` values around each; at the ends over those that there are."""
    half = mean_width(len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _words(name: str) -> str:
    return name.replace("_", " ").strip()
