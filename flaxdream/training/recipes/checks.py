"""Checks that need more than the settings, and no model: they run before a download or a compile."""

from __future__ import annotations

from pathlib import Path

from flaxdream.config.run import RunConfig
from flaxdream.config.training import TrainConfig
from flaxdream.data.loader import Loader, LoaderSettings
from flaxdream.data.rows import RowSource
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


def loader_settings(config: RunConfig) -> LoaderSettings:
    """How the run's pictures are cut and read."""
    return LoaderSettings(
        (config.resolution, config.resolution),
        center_crop=config.center_crop,
        random_flip=config.random_flip,
        interpolation=config.image_interpolation_mode,
        skip_broken=config.skip_broken_images,
        num_workers=config.dataloader_num_workers,
    )


def refuse_moving_latents(config: TrainConfig, source: RowSource) -> None:
    """ValueError where latents are to be kept of pictures that look different at each step."""
    if config.keeps_latents and Loader(source, loader_settings(config), local_rows=(0,)).augments:
        raise ValueError(
            "--cache_latents yes and --latents_cache_dir go with pictures that look the same at every step, and these "
            "leave room for a random crop: add --center_crop, or use --cache_latents auto."
        )
