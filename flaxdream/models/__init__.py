"""The networks: attribute names are the names of diffusers' state dicts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from flaxdream.models.network import Network

__all__ = ["Network", "build"]

# The class that a config.json names -> the function that builds it. (T5 and IF's UNet will be lines here.)
_BUILDERS = {
    "UNet2DConditionModel": ("flaxdream.models.unet", "unet"),
    "AutoencoderKL": ("flaxdream.models.vae", "vae"),
    "CLIPTextModel": ("flaxdream.models.clip", "clip_text"),
    "CLIPTextModelWithProjection": ("flaxdream.models.clip", "clip_text"),
}


def build(config: Mapping[str, Any], **options: Any) -> Network:
    """The network of a config.json (as a dict); options are the fields of `layers.Compute`.

    The class is what `_class_name` (diffusers) or `architectures` (transformers) says, with or without the
    "Flax" that legacy folders put before it.
    """
    name = config.get("_class_name") or (config.get("architectures") or [None])[0]
    module, function = _BUILDERS.get(str(name).removeprefix("Flax"), (None, None))
    if module is None or function is None:
        raise ValueError(
            f"this config.json describes a {name!r}, which is not supported. "
            f"Supported: {', '.join(_BUILDERS)} (key _class_name or architectures)."
        )
    return getattr(importlib.import_module(module), function)(config, **options)
