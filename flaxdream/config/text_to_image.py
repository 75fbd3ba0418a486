"""What `flaxdream text_to_image` can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flaxdream.config.captioned import CaptionedData, captioned_problems
from flaxdream.config.checks import below, not_above_zero, outside
from flaxdream.config.training import TrainConfig
from flaxdream.config.training_checks import train_notes, train_problems

NOT_OF_A_STREAM = ("use_aspect_ratio_bucket", "held_out_samples", "latents_cache_dir")
HELD_OUT = ("held_out_data_dir", "held_out_split", "held_out_samples")


@dataclass(frozen=True)
class TextToImageConfig(CaptionedData, TrainConfig):
    """Fine-tune a model, or train one from scratch, on captioned pictures."""

    output_dir: str = "sd-model-finetuned"
    """Folder for the trained model, checkpoints, metrics, validation pictures and the report."""
    tracker_project_name: str = "text2image-fine-tune"
    """Project on Weights & Biases."""
    train_batch_size: int = 16
    """Pictures per device and forward pass."""
    num_train_epochs: int = 100
    """Length of the training if max_train_steps is not given."""
    learning_rate: float = 1e-4
    """After warm-up."""
    image_interpolation_mode: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "lanczos"
    """How pictures are resized."""
    validation_epochs: int | None = 5
    """Epochs from one validation to the next."""
    validation_steps: int | None = None  # type: ignore[assignment]
    """Optimizer steps from one validation to the next, instead of validation_epochs."""

    # streams
    streaming: bool = False
    """Read a data set of the Hub, parquet files or tars as a stream, which is never here as a whole and only goes
    forward; each host reads its own share. A checkpoint remembers the place."""
    shuffle_buffer_size: int = 1000
    """So many pictures of a stream are in memory, twice, and shuffled."""

    # aspect-ratio buckets
    use_aspect_ratio_bucket: bool = False
    """Train each picture at a size of its own aspect ratio, of up to 1.5 times the area of the resolution's square
    (bucket_table novelai) or of about that area (sdxl)."""
    bucket_table: Literal["novelai", "sdxl"] = "novelai"
    """The sizes: NovelAI's or SDXL's, scaled to the resolution."""
    bucket_divisor: int = 64
    """All sides are multiples of it."""
    bucket_most_cropped: float | None = None
    """Leave out pictures that would lose more than this share of their area."""
    bucket_most_upscaled: float | None = None
    """Leave out pictures that would be enlarged more than so many times."""
    bucket_fewest_pictures: int = 1
    """Pictures of a bucket with fewer go to the next best one: each bucket costs a compiled step."""

    # captions
    proportion_empty_prompts: float = 0.0
    """Chance of a row to be trained on the empty prompt, for classifier-free guidance; 0.1 is usual."""
    shuffle_caption: bool = False
    """Shuffle the tags of captions such as '1girl, red dress, smile', anew for each row."""
    keep_tokens: int = 0
    """So many first tags stay first and are never dropped."""
    caption_tag_dropout_rate: float = 0.0
    """Chance of each other tag to be left out."""
    caption_separator: str = ","
    """What stands between tags."""

    # held-out loss
    held_out_data_dir: str | None = None
    """Folder of captioned pictures that are not trained on, for the held-out loss."""
    held_out_split: str | None = None
    """A split of the data set that is held out, for example validation."""
    held_out_samples: int = 0
    """So many pictures of the training set are held out instead."""
    held_out_loss_steps: int = 0
    """Optimizer steps from one held-out loss to the next; noise and timesteps are the same each time. 0: none."""
    early_stopping_patience: int | None = None
    """End the training when so many held-out losses in a row have not been the lowest."""

    @property
    def latents_stay(self) -> bool:
        """Whether latents are made once by these settings; never of a stream, whose pictures come once."""
        return not self.streaming and super().latents_stay

    @property
    def captions_vary(self) -> bool:
        """Whether rows come with captions of their own: those of a stream, and tags that are drawn anew."""
        return self.streaming or self.shuffle_caption or self.caption_tag_dropout_rate > 0

    def validation_every(self, steps_per_epoch: Callable[[], int]) -> int:
        """Optimizer steps from one validation to the next; those of an epoch are asked for only where they count."""
        if self.validation_steps is not None or not self.validation_epochs:
            return self.validation_steps or 0
        return self.validation_epochs * steps_per_epoch()


def text_to_image_problems(config: TextToImageConfig) -> list[str]:
    """Everything wrong with the settings that can be said without opening a file or asking for devices."""
    problems = train_problems(config) + captioned_problems(config)
    problems += outside(config, ("proportion_empty_prompts", "caption_tag_dropout_rate", "bucket_most_cropped"), 0, 1)
    problems += below(config, ("keep_tokens", "held_out_samples", "held_out_loss_steps"), 0)
    problems += below(config, ("early_stopping_patience", "bucket_divisor", "bucket_fewest_pictures"), 1)
    problems += not_above_zero(config, ("bucket_most_upscaled",))
    problems += below(config, ("shuffle_buffer_size",), 1)
    problems += _stream_problems(config) if config.streaming else []
    if config.use_aspect_ratio_bucket and config.resolution % config.bucket_divisor:
        problems.append(
            f"--resolution {config.resolution} is not a multiple of --bucket_divisor {config.bucket_divisor}, as the "
            "sides of buckets must be."
        )
    if not config.caption_separator.strip():
        problems.append(f"--caption_separator {config.caption_separator!r} is empty; expected a mark such as ','.")
    sources = [name for name in HELD_OUT if getattr(config, name)]
    if len(sources) > 1:
        problems.append(f"{' and '.join(f'--{name}' for name in sources)} both name held-out pictures: keep one.")
    if bool(config.held_out_loss_steps) != bool(sources):
        problems.append(
            "--held_out_loss_steps needs pictures, and they need it: give it with --held_out_data_dir, "
            "--held_out_split or --held_out_samples."
        )
    if config.early_stopping_patience is not None and not config.held_out_loss_steps:
        problems.append("--early_stopping_patience needs a held-out loss: give --held_out_loss_steps and pictures.")
    return problems


def _stream_problems(config: TextToImageConfig) -> list[str]:
    asked = [name for name in NOT_OF_A_STREAM if getattr(config, name)]
    asked += ["cache_latents yes"] if config.cache_latents == "yes" else []
    return [f"--{name} needs all pictures before the start: it does not go with --streaming." for name in asked]


def text_to_image_notes(config: TextToImageConfig) -> list[str]:
    """Settings that have no effect, or hardly the one that was meant; they stop nothing."""
    notes = train_notes(config)
    if config.keep_tokens and not (config.shuffle_caption or config.caption_tag_dropout_rate):
        notes.append("--keep_tokens has no effect without --shuffle_caption or --caption_tag_dropout_rate.")
    if config.shuffle_buffer_size != type(config).shuffle_buffer_size and not config.streaming:
        notes.append("--shuffle_buffer_size has no effect without --streaming.")
    changed = [
        name
        for name in vars(config)
        if name.startswith("bucket_") and getattr(config, name) != getattr(type(config), name)
    ]
    if changed and not config.use_aspect_ratio_bucket:
        notes.append(f"{' and '.join(f'--{name}' for name in changed)} without --use_aspect_ratio_bucket: no effect.")
    return notes
