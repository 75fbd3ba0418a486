"""flaxdream: Stable Diffusion sampling and fine-tuning in JAX and Flax.

The public names are imported when they are first used, so that `flaxdream --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "FlaxStableDiffusionPipeline": "flaxdream.sampling.pipeline",
}

__all__ = ["FlaxStableDiffusionPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'flaxdream' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
