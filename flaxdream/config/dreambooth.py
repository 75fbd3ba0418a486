"""What `flaxdream dreambooth` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxdream.config.checks import below
from flaxdream.config.training import TrainConfig
from flaxdream.config.training_checks import train_notes, train_problems

CAPTION_SWITCHES = ("use_txt_as_label", "combine_prompt_from_txt", "read_prompts_from_txts", "use_filename_as_label")


@dataclass(frozen=True)
class DreamBoothConfig(TrainConfig):
    """Teach a model a subject or a style from a few pictures."""

    output_dir: str = "dreambooth-model"
    """Folder for the trained model, checkpoints, metrics, validation pictures and the report."""
    tracker_project_name: str = "dreambooth"
    """Project on Weights & Biases."""

    instance_data_dir: str | None = None
    """Folder with the pictures of the subject."""
    instance_prompt: str | None = None
    """Prompt that names the subject by a rare word, for example 'a photo of sks dog'."""
    concepts_list: str | None = None
    """JSON file with several subjects: a list of objects with instance_data_dir, instance_prompt, class_data_dir,
    class_prompt, repeats and num_class_images."""
    kohya_folders: bool = False
    """instance_data_dir holds a folder `N_token class` for each subject ('10_sks dog'), class_data_dir a folder
    `1_class` for each class: N is repeats, the rest is the prompt."""
    use_txt_as_label: bool = False
    """Take each picture's prompt from image.txt beside image.png."""
    combine_prompt_from_txt: bool = False
    """Join instance_prompt and the text of image.txt by prompt_combine_template."""
    prompt_combine_template: str = "{PROMPT}, {TXT_PROMPT}"
    read_prompts_from_txts: bool = False
    """Take each picture's prompt from image.png.txt beside image.png."""
    use_filename_as_label: bool = False
    """Take each picture's prompt from its file name."""
    repeats: int = 1
    """How often an epoch shows each instance picture."""

    with_prior_preservation: bool = False
    """Train on pictures of the class too, so that it does not become the subject."""
    prior_loss_weight: float = 1.0
    """What the class pictures' loss counts."""
    class_data_dir: str | None = None
    """Folder with pictures of the class; the missing ones are drawn by the model before training."""
    class_prompt: str | None = None
    """Prompt of the class, for example 'a photo of dog'."""
    num_class_images: int = 100
    """Class pictures to have, and the most that are used."""
    sample_batch_size: int = 4
    """Class pictures that a device draws at once. Validation pictures are drawn one a device."""
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = None
    """In which class pictures are drawn; that of mixed_precision if not given."""
    class_negative_prompt: str = ""
    """What class pictures should not show."""
    class_num_inference_steps: int = 50
    class_guidance_scale: float = 7.5
    class_sampler: str | None = None
    """Sampler that draws class pictures; the model's own if not given."""

    @property
    def caption_source(self) -> str:
        """Where prompts of instance pictures come from, by the names of `data.captions.SOURCES`."""
        if self.combine_prompt_from_txt:
            return "prompt_and_txt"
        if self.use_txt_as_label:
            return "txt"
        if self.read_prompts_from_txts:
            return "image_txt"
        return "filename" if self.use_filename_as_label else "prompt"


def dreambooth_problems(config: DreamBoothConfig) -> list[str]:
    """Everything wrong with the settings that can be said without opening a file or asking for devices."""
    return (
        train_problems(config)
        + _subject_problems(config)
        + _caption_problems(config)
        + (_prior_problems(config) if config.with_prior_preservation else [])
        + below(config, ("repeats", "sample_batch_size"), 1)
    )


def dreambooth_notes(config: DreamBoothConfig) -> list[str]:
    """Settings that have no effect, or hardly the one that was meant; they stop nothing."""
    notes = train_notes(config)
    unused = [name for name in ("class_data_dir", "class_prompt") if getattr(config, name)]
    if unused and not config.with_prior_preservation:
        notes.append(f"{_flags(unused)} without --with_prior_preservation: no class pictures are used.")
    return notes


def _subject_problems(config: DreamBoothConfig) -> list[str]:
    if config.concepts_list:
        given = [
            name
            for name in ("instance_data_dir", "instance_prompt", "class_data_dir", "class_prompt", "kohya_folders")
            if getattr(config, name)
        ]
        if not given:
            return []
        return [f"--concepts_list names folders and prompts itself: put those of {_flags(given)} into it as an entry."]
    problems = []
    if not config.instance_data_dir:
        problems.append("--instance_data_dir is missing: the folder with the pictures of the subject.")
    if config.kohya_folders:
        given = [name for name in ("instance_prompt", "class_prompt") if getattr(config, name)]
        if given:
            problems.append(f"--kohya_folders takes prompts from the folders' names: leave {_flags(given)} out.")
    elif config.caption_source in ("prompt", "prompt_and_txt") and not (config.instance_prompt or "").strip():
        problems.append(
            "--instance_prompt is missing: a prompt with a rare word for the subject, such as 'a photo of sks dog'; "
            "or --use_txt_as_label, with a text file beside each picture."
        )
    return problems


def _caption_problems(config: DreamBoothConfig) -> list[str]:
    problems = []
    switches = [name for name in CAPTION_SWITCHES if getattr(config, name)]
    if len(switches) > 1 and set(switches) != {"use_txt_as_label", "combine_prompt_from_txt"}:
        problems.append(f"{_flags(switches)} name different sources of prompts: keep one.")
    if config.combine_prompt_from_txt and "{TXT_PROMPT}" not in config.prompt_combine_template:
        problems.append(
            f"--prompt_combine_template {config.prompt_combine_template!r} lacks {{TXT_PROMPT}}; "
            "for example '{PROMPT}, {TXT_PROMPT}'."
        )
    return problems


def _prior_problems(config: DreamBoothConfig) -> list[str]:
    problems = below(config, ("num_class_images", "class_num_inference_steps"), 1)
    problems += below(config, ("prior_loss_weight", "class_guidance_scale"), 0)
    if config.concepts_list:
        return problems
    if not config.class_data_dir:
        problems.append(
            "--with_prior_preservation needs --class_data_dir: a folder for class pictures; it may be empty or new."
        )
    if not (config.class_prompt or "").strip() and not config.kohya_folders:
        problems.append("--with_prior_preservation needs --class_prompt, such as 'a photo of dog'.")
    if config.class_data_dir and config.class_data_dir == config.instance_data_dir:
        problems.append(
            f"--class_data_dir {config.class_data_dir} is also --instance_data_dir: class pictures need a folder of "
            "their own."
        )
    return problems


def _flags(names: list[str]) -> str:
    return " and ".join(f"--{name}" for name in names)
