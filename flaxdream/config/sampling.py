"""Settings of the commands that draw pictures or write a model to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxdream.config.checks import nearest_multiple


@dataclass(frozen=True)
class SampleConfig:
    """Draw pictures from prompts."""

    pretrained_model_name_or_path: str = ""
    """A model folder in the diffusers layout, the id of one on the Hugging Face Hub, or builtin, a small one."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    variant: str | None = None
    """Which weight files, for example fp16; the plain ones if not given."""
    hub_token: str | None = None
    """Token for gated or private models; the one of `hf auth login` if not given."""
    cache_dir: str | None = None
    """Where downloads are kept; the Hub's own cache if not given."""
    prompt: tuple[str, ...] = ()
    """One or more prompts."""
    prompts_file: str | None = None
    """A text file, a prompt a line; options at the line's end: --n negative, --w width, --h height, --d seed,
    --l guidance scale, --s steps. Lines that start with # are left out."""
    negative_prompt: str = ""
    """What the pictures should not show."""
    output_dir: str = "samples"
    """Folder for the PNG files and the contact sheet; what lies there is kept."""
    num_images_per_prompt: int = 1
    seed: int = 0
    """Seed of the first picture; each next one has the next seed."""
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    """Strength of the prompt; at 1 or less no guidance is computed and the negative prompt has no effect."""
    guidance_rescale: float = 0.0
    """0 to 1: takes back the contrast that strong guidance adds (0.7 for zero-terminal-SNR models)."""
    height: int | None = None
    """Pixels; a multiple of 8. The model's own size if not given."""
    width: int | None = None
    """Pixels; a multiple of 8. The model's own size if not given."""
    sampler: str | None = None
    """ddim, ddpm, pndm, dpmpp_2m, dpmpp_2m_karras, euler, euler_a, heun, lms, unipc, ... or a diffusers class name;
    the model's own if not given."""
    clip_skip: int = 0
    """How many of the text encoder's last layers are left out."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """no computes in float32; bf16 halves memory on TPUs and GPUs."""
    sample_batch_size: int = 1
    """Pictures a device draws at once."""
    vae_tiling: bool = False
    """Decode in overlapping tiles: little memory for large pictures."""
    attention: str = "auto"
    """Attention kernel: auto, xla, chunked, cudnn or flash."""
    compilation_cache_dir: str | None = "~/.cache/flaxdream/xla"
    """Compiled programs are kept here, so that the next start is quick; "" keeps none."""
    fast_compile: bool = False
    """For TPUs: compile in 0.6 of the time, for steps that take an eighth to a fifth longer."""


@dataclass(frozen=True)
class RandomModelConfig:
    """Write a model with random weights: to try commands and machines without a download."""

    output_dir: str = ""
    """Folder to write; it must not exist."""
    architecture: Literal["tiny", "tiny-v", "builtin", "sd15", "sd21"] = "tiny"
    """tiny: a few hundred thousand parameters; tiny-v: the same with v-prediction; builtin: the model
    that ships with flaxdream; sd15, sd21: the true shapes."""
    weights_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    seed: int = 0


def sample_problems(config: SampleConfig) -> list[str]:
    """Everything wrong with the settings that can be said without opening a file."""
    problems = []
    if not config.pretrained_model_name_or_path:
        problems.append("--pretrained_model_name_or_path is missing: a model folder or a Hub id.")
    if not config.prompt and config.prompts_file is None:
        problems.append("No prompt: give --prompt 'a photo of a dog' or --prompts_file prompts.txt.")
    for name in ("height", "width"):
        value = getattr(config, name)
        if value is not None and (value <= 0 or value % 8):
            problems.append(f"--{name} {value} is not a positive multiple of 8; nearest: {nearest_multiple(value, 8)}.")
    for name in ("num_images_per_prompt", "num_inference_steps", "sample_batch_size"):
        if getattr(config, name) < 1:
            problems.append(f"--{name} {getattr(config, name)} must be 1 or more.")
    if config.clip_skip < 0:
        problems.append(f"--clip_skip {config.clip_skip} must be 0 or more.")
    if not 0.0 <= config.guidance_rescale <= 1.0:
        problems.append(f"--guidance_rescale {config.guidance_rescale} must lie in 0..1.")
    return problems
