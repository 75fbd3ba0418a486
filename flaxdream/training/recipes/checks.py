"""Checks that need more than the settings, and no model: they run before a download or a compile."""

from __future__ import annotations

from pathlib import Path

from flaxdream.config.training import TrainConfig
from flaxdream.diffusion.samplers import scheduler_config
from flaxdream.training.recipes.previews import validation_requests
from flaxdream.training.trackers import tracker_names
from flaxdream.weights.push import repository_id


def late_problems(config: TrainConfig, samplers: tuple[str | None, ...] = ()) -> list[str]:
    """What is wrong with prompts files, trackers, the repository to upload to and the names of samplers."""
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    found = []
    for check in (
        lambda: validation_requests(config),
        lambda: tracker_names(config.report_to, config.hub_token),
        lambda: config.push_to_hub and repository_id(name, config.hub_token),
        lambda: [scheduler_config({}, name) for name in (config.validation_scheduler, *samplers) if name],
    ):
        try:
            check()
        except ValueError as error:
            found.append(str(error))
    return found
