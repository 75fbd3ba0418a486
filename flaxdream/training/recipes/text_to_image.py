"""Text-to-image training on captioned pictures, of a model that exists or of one with random weights."""

from __future__ import annotations

import jax

from flaxdream.config import TextToImageConfig, batch_problems, text_to_image_problems
from flaxdream.data.buckets import BucketPlan, Limits, bucket_table, plan_buckets, plan_text
from flaxdream.data.captioned import CaptionedRows
from flaxdream.data.held_out import HeldOutRows
from flaxdream.data.picture_set import PictureSet, split_off
from flaxdream.data.picture_sizes import picture_sizes
from flaxdream.data.tags import TagRules
from flaxdream.training.mesh import make_mesh
from flaxdream.training.recipes import finetuned_model
from flaxdream.training.recipes.captioned_data import (
    broken_pictures,
    folder_of_pictures,
    say,
    split_of,
    training_set,
    without,
)
from flaxdream.training.recipes.checks import late_problems
from flaxdream.training.recipes.denoising import Denoising
from flaxdream.training.recipes.long_captions import long_captions
from flaxdream.training.recipes.run import run, total_steps


def train_text_to_image(config: TextToImageConfig) -> int:
    """Runs the whole training and returns the exit code: 0, or 130 and 143 when a signal stopped it.

    Raises ValueError with all problems of the settings and the data, before anything is compiled.
    """
    return run(_task(config))


def fill_cache(config: TextToImageConfig) -> int:
    """Puts the latents and text states of the training into its `latents_cache_dir`, and returns 0.

    Raises ValueError as `train_text_to_image` does, and if no such folder is named.
    """
    if config.latents_cache_dir is None:
        raise ValueError("--latents_cache_dir is missing: the folder to keep latents and text states in")
    _task(config).inputs(0)
    say([f"{config.latents_cache_dir} holds what the training needs; start it with the same --latents_cache_dir"])
    return 0


def _task(config: TextToImageConfig) -> Denoising:
    """All that the training needs, checked."""
    problems = text_to_image_problems(config) + batch_problems(config, jax.device_count()) + late_problems(config)
    pictures, held_out = None, None
    try:
        pictures, held_out = _sets(config)
    except ValueError as error:
        problems.append(str(error))
    broken = broken_pictures(pictures, config.dataloader_num_workers) if pictures is not None else {}
    if broken and not config.skip_broken_images:
        problems += [f"{problem} (--skip_broken_images goes on without it)" for problem in broken.values()]
    if problems:
        raise ValueError("these settings cannot be used:\n  " + "\n  ".join(problems))
    assert pictures is not None

    folder = finetuned_model.model_folder(config)
    finetuned_model.open_model(config, folder)
    mesh = make_mesh(config.fsdp)
    pictures = without(pictures, broken.keys())
    rows_per_step = config.rows_per_step(jax.device_count())
    plan = bucket_plan(config, pictures, rows_per_step) if config.use_aspect_ratio_bucket else None
    source = CaptionedRows(
        pictures,
        rows_per_step,
        config.seed,
        proportion_empty_prompts=config.proportion_empty_prompts,
        tags=TagRules(
            config.shuffle_caption, config.keep_tokens, config.caption_tag_dropout_rate, config.caption_separator
        ),
        buckets=plan,
    )
    steps = total_steps(config, source.steps_per_epoch)
    say([
        *pictures.notes,
        *(f"left out: {problem}" for problem in broken.values()),
        f"{len(source)} pictures, {source.batch_rows} rows a step on {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}, {steps} steps",
    ])  # fmt: skip
    rows = HeldOutRows(held_out, source.batch_rows) if held_out is not None else None
    model = finetuned_model.load(config, folder, mesh)
    if source.random_access:
        captioned = ((pictures.path(i), caption) for i in range(len(pictures)) for caption in pictures.captions(i))
        say(long_captions(model.pipeline.tokenizer, captioned))
    return Denoising(config, model, source, mesh, steps, held_out=rows)


def _sets(config: TextToImageConfig) -> tuple[PictureSet, PictureSet | None]:
    """The pictures to train on and those that are held out."""
    pictures = training_set(config, config.seed, token=config.hub_token, cache_dir=config.cache_dir)
    if config.held_out_data_dir is not None:
        return pictures, folder_of_pictures(config.held_out_data_dir, config, missing_caption="leave_out")
    if config.held_out_split is not None:
        return pictures, split_of(config, config.held_out_split, token=config.hub_token, cache_dir=config.cache_dir)
    if config.held_out_samples:
        return split_off(pictures, config.held_out_samples, config.seed)
    return pictures, None


def bucket_plan(config: TextToImageConfig, pictures: PictureSet, rows_per_step: int) -> BucketPlan:
    """Which picture is cut to which size; the plan is printed."""
    table = bucket_table(config.bucket_table, config.resolution, config.bucket_divisor)
    sizes = picture_sizes(pictures, num_workers=config.dataloader_num_workers)
    limits = Limits(config.bucket_most_cropped, config.bucket_most_upscaled, config.bucket_fewest_pictures)
    plan = plan_buckets(sizes.sizes, table, limits)
    say([plan_text(plan, rows_per_step)])
    return plan
