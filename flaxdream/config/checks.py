"""What the checks of all configs share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

SECRETS = frozenset({"hub_token"})  # fields that are written and shown nowhere
LARGEST_SEED = 2**32 - 1


def nearest_multiple(value: int, of: int) -> int:
    """The positive multiple of `of` that is nearest to the value."""
    return max(of, round(value / of) * of)


def below(config: Any, names: Iterable[str], least: float) -> list[str]:
    """A line for each named field whose value is below `least` (None is not), or is not a finite number."""
    return [
        f"--{name} {value} must be {least:g} or more."
        for name in names
        if (value := getattr(config, name)) is not None and not least <= value < float("inf")
    ]


def outside(config: Any, names: Iterable[str], low: float, high: float) -> list[str]:
    """A line for each named field whose value is not in low..high (None is)."""
    return [
        f"--{name} {value} must lie in {low}..{high}."
        for name in names
        if (value := getattr(config, name)) is not None and not low <= value <= high
    ]


def not_above_zero(config: Any, names: Iterable[str]) -> list[str]:
    """A line for each named field whose value is not above 0 (None is), or is not a finite number."""
    return [
        f"--{name} {value} must be above 0."
        for name in names
        if (value := getattr(config, name)) is not None and not 0 < value < float("inf")
    ]


def suggestion(word: str, choices: Sequence[str]) -> str:
    """`; perhaps you meant 'x'`, or nothing."""
    close = difflib.get_close_matches(word, choices, n=1)
    return f"; perhaps you meant {close[0]!r}" if close else ""


def compile_notes(config: Any, platform: str) -> list[str]:
    """What settings ask of the compiler in vain on a platform (`cpu`, `gpu`, `tpu`)."""
    vain = config.fast_compile and platform != "tpu"
    return [f"--fast_compile has no effect on a {platform}: it is for TPUs."] if vain else []
