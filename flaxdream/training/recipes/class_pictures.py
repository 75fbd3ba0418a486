"""Class pictures for prior preservation: the missing ones are drawn before training, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from flaxdream.config.dreambooth import DreamBoothConfig
from flaxdream.data.class_images import drawn_otherwise, missing_class_images, save_class_image
from flaxdream.data.concepts import Concept
from flaxdream.sampling.pipeline import FlaxStableDiffusionPipeline
from flaxdream.sampling.placement import local_mesh, on_every_device
from flaxdream.training.recipes.finetuned_model import DTYPES

PRECISION = {None: None, "no": "no", "fp32": "no", "fp16": "fp16", "bf16": "bf16"}


def class_folders(concepts: Sequence[Concept], config: DreamBoothConfig) -> dict[Path, tuple[str, int]]:
    """Each class folder with its prompt and the number of pictures wanted in it; concepts may share one."""
    wanted: dict[Path, tuple[str, int]] = {}
    for concept in concepts:
        assert concept.class_data_dir and concept.class_prompt
        folder, count = Path(concept.class_data_dir), concept.num_class_images or config.num_class_images
        wanted[folder] = (concept.class_prompt, max(count, wanted.get(folder, ("", 0))[1]))
    return wanted


def draw_missing(concepts: Sequence[Concept], config: DreamBoothConfig, folder: Path) -> list[str]:
    """Draws the class pictures that are missing, in full batches over all devices, each written as it comes.

    The pictures' numbers are their seeds, so a generation that was killed goes on where it stopped and ends with the
    same pictures. The first process draws for all. The parameters are freed when this returns. Returns what the
    user should know of pictures that are already there.
    """
    folders = class_folders(concepts, config)
    settings = {prompt: _settings(config, prompt) for prompt, _ in folders.values()}
    notes = [note for path, (prompt, _) in folders.items() for note in drawn_otherwise(path, settings[prompt])]
    missing = {path: missing_class_images(path, count) for path, (_, count) in folders.items()}
    if any(missing.values()) and jax.process_index() == 0:
        _draw(config, folder, folders, missing, settings)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("class pictures")
    return notes


def _draw(
    config: DreamBoothConfig,
    folder: Path,
    folders: dict[Path, tuple[str, int]],
    missing: dict[Path, list[int]],
    settings: dict[str, dict[str, object]],
) -> None:
    precision = PRECISION[config.prior_generation_precision] or config.mixed_precision
    pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(
        folder,
        dtype=DTYPES[precision],
        variant=config.variant,
        sharding=on_every_device(local_mesh()),
        attention=config.attention,
    )
    per_call = config.sample_batch_size * pipeline.mesh.size
    for path, numbers in missing.items():
        prompt = folders[path][0]
        if numbers:
            print(f"drawing {len(numbers)} class pictures of {prompt!r} into {path}")
        for start in range(0, len(numbers), per_call):
            part = numbers[start : start + per_call]
            drawn = pipeline.generate(
                [prompt] * len(part),
                params,
                negative_prompts=config.class_negative_prompt,
                seeds=part,
                num_inference_steps=config.class_num_inference_steps,
                guidance_scale=config.class_guidance_scale,
                height=config.resolution,
                width=config.resolution,
                sampler=config.class_sampler,
                batch_size=config.sample_batch_size,
                progress=True,
            )
            for number, picture in zip(part, drawn, strict=True):
                save_class_image(path, number, np.asarray(picture), settings[prompt] | {"seed": number})


def _settings(config: DreamBoothConfig, prompt: str) -> dict[str, object]:
    """What a class picture is judged by when it is used again."""
    return {"prompt": prompt, "model": config.pretrained_model_name_or_path, "resolution": config.resolution}


def with_defaults(concept: Concept, config: DreamBoothConfig) -> Concept:
    """The concept with the command's class folder and prompt where it names none."""
    return replace(
        concept,
        class_data_dir=concept.class_data_dir or config.class_data_dir,
        class_prompt=concept.class_prompt or config.class_prompt,
    )
