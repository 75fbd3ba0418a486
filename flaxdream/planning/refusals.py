"""What the compiler says when a program does not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s?([KMGT]?)(?:i?B)?"
_PATTERNS = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"required for HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    re.compile(rf"needed {_SIZE}[^.]*? (?:only has|but only) {_SIZE}"),
)
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "Ran out of memory", "out of memory", "exceeds available HBM")


@dataclass(frozen=True)
class Refusal:
    """`needed` and `available` in bytes, None where the message does not say."""

    message: str
    needed: float | None
    available: float | None


def refusal(message: str) -> Refusal | None:
    """The refusal that an error's message is; None if it is about something else."""
    if not any(words in message for words in _NO_MEMORY):
        return None
    for pattern in _PATTERNS:
        match = pattern.search(message)
        if match:
            value, unit, limit, limit_unit = match.groups()
            return Refusal(message, float(value) * _UNITS[unit], float(limit) * _UNITS[limit_unit])
    return Refusal(message, None, None)
