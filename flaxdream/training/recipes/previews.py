"""What the validation pictures show: the same prompts and seeds at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flaxdream.config.training import TrainConfig
from flaxdream.sampling.prompts import Request, read_prompts_file


def validation_requests(config: TrainConfig) -> list[Request]:
    """A Request for each picture, filled in, with fixed seeds; empty without validation prompts."""
    requests = [Request(prompt) for prompt in config.validation_prompt]
    if config.validation_prompts_file is not None:
        requests += read_prompts_file(config.validation_prompts_file)
    first = config.seed if config.validation_seed is None else config.validation_seed
    return [
        _filled(request, config, (first if request.seed is None else request.seed) + number)
        for request in requests
        for number in range(config.num_validation_images)
    ]


def _filled(request: Request, config: TrainConfig, seed: int) -> Request:
    defaults: dict[str, Any] = {
        "negative_prompt": config.validation_negative_prompt,
        "width": config.resolution,
        "height": config.resolution,
        "guidance_scale": config.validation_guidance_scale,
        "num_inference_steps": config.validation_num_inference_steps,
    }
    given = {name: value for name, value in defaults.items() if getattr(request, name) is None}
    return replace(request, seed=seed, **given)
