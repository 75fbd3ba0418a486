"""Text-to-image training on captioned pictures, of a model that exists or of one with random weights."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from flaxdream.config import TextToImageConfig, batch_problems, text_to_image_problems
from flaxdream.data.buckets import BucketPlan, Limits, bucket_table, plan_buckets, plan_text
from flaxdream.data.captioned import CaptionedRows
from flaxdream.data.held_out import HeldOutRows
from flaxdream.data.images import BrokenPicture
from flaxdream.data.picture_set import PictureSet, split_off
from flaxdream.data.picture_sizes import picture_sizes
from flaxdream.data.streamed import StreamedRows
from flaxdream.data.tags import TagRules
from flaxdream.training.mesh import local_rows, make_mesh
from flaxdream.training.recipes import finetuned_model
from flaxdream.training.recipes.captioned_data import (
    Stream,
    broken_pictures,
    folder_of_pictures,
    say,
    split_of,
    stream_of,
    training_set,
    without,
)
from flaxdream.training.recipes.checks import late_problems, refuse_moving_latents
from flaxdream.training.recipes.denoising import Denoising
from flaxdream.training.recipes.long_captions import long_captions
from flaxdream.training.recipes.previews import validation_requests
from flaxdream.training.recipes.run import run, total_steps


def train_text_to_image(config: TextToImageConfig) -> int:
    """Runs the whole training and returns the exit code: 0, or 130 and 143 when a signal stopped it.

    Raises ValueError with all problems of the settings and the data, before anything is compiled.
    """
    task = _task(config)
    try:
        return run(task)
    finally:
        if isinstance(task.source, StreamedRows):
            say([*task.source.notes])
            task.source.close()


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
    data, held_out, broken = None, None, dict[int, BrokenPicture]()
    try:
        data, held_out = _sets(config)
    except ValueError as error:
        problems.append(str(error))
    if data is not None and not isinstance(data, Stream):
        broken = broken_pictures(data, config.dataloader_num_workers)
    if broken and not config.skip_broken_images:
        problems += [f"{problem} (--skip_broken_images goes on without it)" for problem in broken.values()]
    if problems:
        raise ValueError("these settings cannot be used:\n  " + "\n  ".join(problems))
    assert data is not None

    folder = finetuned_model.model_folder(config)
    finetuned_model.open_model(config, folder)
    mesh = make_mesh(config.fsdp)
    source = _stream_rows(config, data, mesh) if isinstance(data, Stream) else _rows(config, without(data, broken))
    refuse_moving_latents(config, source)
    steps = total_steps(config, source)
    say([
        *source.notes,
        *(f"left out: {problem}" for problem in broken.values()),
        f"{'a stream of' if isinstance(data, Stream) else len(source)} pictures, {source.batch_rows} rows a step on "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, {steps} steps",
    ])  # fmt: skip
    at_once = config.train_batch_size * jax.local_device_count()  # as a forward pass; accumulation adds none
    held_out_rows = HeldOutRows(held_out, at_once) if held_out is not None else None
    model = finetuned_model.load(config, folder, mesh)
    if isinstance(source, CaptionedRows):
        pictures = source.pictures
        captioned = ((pictures.path(i), caption) for i in range(len(pictures)) for caption in pictures.captions(i))
        say(long_captions(model.pipeline.tokenizer, captioned))
    return Denoising(config, model, source, mesh, steps, held_out=held_out_rows)


def _rows(config: TextToImageConfig, pictures: PictureSet) -> CaptionedRows:
    """Rows of pictures that are all here, in buckets where they are asked for."""
    rows_per_step = config.rows_per_step(jax.device_count())
    return CaptionedRows(
        pictures,
        rows_per_step,
        config.seed,
        proportion_empty_prompts=config.proportion_empty_prompts,
        tags=_tag_rules(config),
        buckets=bucket_plan(config, pictures, rows_per_step) if config.use_aspect_ratio_bucket else None,
    )


def _stream_rows(config: TextToImageConfig, stream: Stream, mesh: Mesh) -> StreamedRows:
    """This host's rows of a stream. ValueError if an epoch of it has to be known and is not."""
    rows_per_step = config.rows_per_step(jax.device_count())
    source = StreamedRows(
        stream.dataset,
        stream.name,
        rows_per_step,
        config.seed,
        local_rows=local_rows(mesh, rows_per_step),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        image_column=config.image_column,
        caption_column=config.caption_column,
        proportion_empty_prompts=config.proportion_empty_prompts,
        tags=_tag_rules(config),
        max_train_samples=config.max_train_samples,
        missing_caption=config.missing_caption,
        buffer_size=config.shuffle_buffer_size,
    )
    if validation_requests(config):
        config.validation_every(lambda: source.steps_per_epoch)
    return source


def _tag_rules(config: TextToImageConfig) -> TagRules:
    return TagRules(
        config.shuffle_caption, config.keep_tokens, config.caption_tag_dropout_rate, config.caption_separator
    )


def _sets(config: TextToImageConfig) -> tuple[PictureSet | Stream, PictureSet | None]:
    """The pictures to train on and those that are held out."""
    if config.streaming:
        pictures: PictureSet | Stream = stream_of(config, token=config.hub_token, cache_dir=config.cache_dir)
    else:
        pictures = training_set(config, config.seed, token=config.hub_token, cache_dir=config.cache_dir)
    if config.held_out_data_dir is not None:
        return pictures, folder_of_pictures(config.held_out_data_dir, config, missing_caption="leave_out")
    if config.held_out_split is not None:
        return pictures, split_of(config, config.held_out_split, token=config.hub_token, cache_dir=config.cache_dir)
    if config.held_out_samples and not isinstance(pictures, Stream):
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
