"""What `flaxdream dataset check` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxdream.config.captioned import CaptionedData, captioned_problems
from flaxdream.config.checks import LARGEST_SEED, below, nearest_multiple, not_above_zero, outside

RESOLUTION_STEP = 8  # the VAE's


@dataclass(frozen=True)
class DatasetCheckConfig(CaptionedData):
    """Look at a set of pictures before training: what is there, what is broken, copied, small, blurred, without a
    caption or with one that is too long, how prompts split into tokens, and what training will cut away.

    flaxdream dataset check FOLDER [flags]: a folder of captioned pictures, of tars or of parquet files; with
    --instance_prompt the pictures of one subject, for DreamBooth. The exit code is 1 if there are errors."""

    # the subject of DreamBooth
    instance_data_dir: str | None = None
    """The same as FOLDER."""
    instance_prompt: str | None = None
    """The prompt of all pictures, for example 'a photo of sks dog'; captions are not looked for."""
    token: str | None = None
    """The rare word that is to be one token; that of instance_prompt is found without it."""
    prompt: tuple[str, ...] = ()
    """Other prompts to split into tokens."""
    pretrained_model_name_or_path: str | None = None
    """The model whose tokenizer counts: a folder, builtin, or a Hub id. That of CLIP, as in SD 1.x, if not given."""

    # the size of training
    resolution: int = 512
    """Height and width in pixels; a multiple of 8."""
    use_aspect_ratio_bucket: bool = False
    """Judge pictures by the buckets that training will put them in; their plan is shown in any case."""
    bucket_table: Literal["novelai", "sdxl"] = "novelai"
    """The sizes: NovelAI's or SDXL's, scaled to the resolution."""
    bucket_divisor: int = 64
    """All sides are multiples of it."""
    bucket_most_cropped: float | None = None
    """Leave out pictures that would lose more than this share of their area."""
    bucket_most_upscaled: float | None = None
    """Leave out pictures that would be enlarged more than so many times."""
    bucket_fewest_pictures: int = 1
    """Pictures of a bucket with fewer go to the next best one."""
    train_batch_size: int = 4
    """Pictures of a step on all devices, for the rows that stay empty in buckets."""
    least_sharpness: float = 1.0
    """Pictures below it count as blurred; sharp ones have 3 and more. 0 names none."""

    # the report
    output_dir: str | None = None
    """Folder for contact sheets: problems.png and crops.png."""
    json: bool = False
    """Print the report as JSON, with all names."""
    names_shown: int = 5
    """Pictures that the text names of each kind of problem."""
    dataloader_num_workers: int = 0
    """Threads that decode pictures; 0: one for each processor."""
    seed: int = 0
    """For the pictures that max_train_samples draws."""
    cache_dir: str | None = None
    """Where downloads are kept; the Hub's own cache if not given."""
    hub_token: str | None = None
    """Token for a private data set or model; the one of `hf auth login` if not given."""


def dataset_check_problems(config: DatasetCheckConfig) -> list[str]:
    """Everything wrong with the settings that can be said without opening a file."""
    problems = _source_problems(config)
    problems += below(config, ("train_batch_size", "bucket_divisor", "bucket_fewest_pictures", "names_shown"), 1)
    problems += below(config, ("dataloader_num_workers", "least_sharpness"), 0)
    problems += outside(config, ("bucket_most_cropped",), 0, 1) + outside(config, ("seed",), 0, LARGEST_SEED)
    problems += not_above_zero(config, ("bucket_most_upscaled",))
    if config.resolution < RESOLUTION_STEP or config.resolution % RESOLUTION_STEP:
        problems.append(
            f"--resolution {config.resolution} is not a positive multiple of {RESOLUTION_STEP}; "
            f"nearest: {nearest_multiple(config.resolution, RESOLUTION_STEP)}."
        )
    elif config.use_aspect_ratio_bucket and config.bucket_divisor > 0 and config.resolution % config.bucket_divisor:
        problems.append(
            f"--resolution {config.resolution} is not a multiple of --bucket_divisor {config.bucket_divisor}, as the "
            "sides of buckets must be."
        )
    if config.token is not None and len(config.token.split()) != 1:
        problems.append(f"--token {config.token!r} is not one word.")
    return problems


def _source_problems(config: DatasetCheckConfig) -> list[str]:
    if config.instance_prompt is None and config.instance_data_dir is None:
        return captioned_problems(config)
    if not (config.instance_prompt or "").strip():
        return [
            "--instance_data_dir needs --instance_prompt, such as 'a photo of sks dog'; a folder whose pictures have "
            "captions of their own is given as flaxdream dataset check FOLDER."
        ]
    problems = below(config, ("max_train_samples",), 1)
    if config.dataset_name:
        problems.append("--instance_prompt is for a folder: a --dataset_name has captions of its own.")
    if config.instance_data_dir and config.train_data_dir:
        problems.append(f"{config.train_data_dir} and --instance_data_dir are two folders: keep one.")
    if not (config.instance_data_dir or config.train_data_dir or config.dataset_name):
        problems.append("There is no folder: flaxdream dataset check FOLDER --instance_prompt ...")
    return problems
