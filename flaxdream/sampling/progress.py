"""A progress bar that a compiled loop moves: one tick for each call of the denoising network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from tqdm import tqdm

_bars: list[tqdm] = []


def tick(_index: Any) -> None:
    """Moves the innermost open bar. One function for every call, so that jit compiles the loop once."""
    if _bars:
        _bars[-1].update()


@contextmanager
def bar(total: int, description: str, enabled: bool = True) -> Iterator[tqdm]:
    """A bar of `total` ticks; it waits for the device's last tick before it closes."""
    with tqdm(total=total, desc=description, disable=not enabled, dynamic_ncols=True) as opened:
        _bars.append(opened)
        try:
            yield opened
            jax.effects_barrier()
        finally:
            _bars.remove(opened)
