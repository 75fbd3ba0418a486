"""Threads in which a program is compiled ahead of its use. A command that ends does not wait for them."""

from __future__ import annotations

import threading

PREFIX = "flaxdream-compile"
"""Begins their names."""


def compiling() -> bool:
    """Whether one of them is at work."""
    return any(thread.name.startswith(PREFIX) for thread in threading.enumerate())
