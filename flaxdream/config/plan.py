"""What `flaxdream plan` can be told beside the flags of the training that it plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flaxdream.config.checks import below, suggestion
from flaxdream.config.dreambooth import DreamBoothConfig, dreambooth_problems
from flaxdream.config.run import RunConfig
from flaxdream.config.text_to_image import TextToImageConfig, text_to_image_problems
from flaxdream.config.vae import VaeConfig, vae_problems

WHAT = ("train", "sample", "encode")
# Trainings that can be planned: their settings, and what is wrong with them.
RECIPES: dict[str, tuple[type[RunConfig], Callable[[Any], list[str]]]] = {
    "dreambooth": (DreamBoothConfig, dreambooth_problems),
    "text_to_image": (TextToImageConfig, text_to_image_problems),
    "vae": (VaeConfig, vae_problems),
}


@dataclass(frozen=True)
class PlanConfig:
    """Does a training fit a machine, and how fast will it be? Compiled for it, without having it."""

    topology: str = ""
    """The machine: v2-8, v3-8, v4-8, v5e-1, v5e-4, v5e-8, v5p-8, v6e-1, v6e-4, v6e-8 or a larger slice by its Cloud
    name; gpu or cpu for the devices of this machine."""
    what: str = "train"
    """What is compiled, with commas: train, sample (validation pictures), encode (cached latents)."""
    largest_batch: bool = False
    """Find the largest train_batch_size of which all that --what names fits, by trying."""
    advise: bool = False
    """If it does not fit, try settings that need less memory and say with which all that --what names fits."""
    caption_count: int = 1
    """Different captions of the pictures: what is kept of their text lies on every device."""
    image_count: int = 1
    """Pictures of the data set, class pictures too: latents of too many are not kept but made in the step."""
    full: bool = False
    """Generate the code too: the program's size and the whole compile time, for minutes more."""
    json: bool = False
    """Print JSON for programs instead of a table."""

    @property
    def programs(self) -> tuple[str, ...]:
        """What to compile, in order."""
        return tuple(word.strip() for word in self.what.split(",") if word.strip())


def plan_problems(config: PlanConfig, recipe: str = "dreambooth") -> list[str]:
    """Everything wrong with these settings; the topology's name is checked by whoever knows them."""
    problems = below(config, ("caption_count", "image_count"), 1)
    if recipe == "vae" and set(config.programs) - {"train"}:
        problems.append(f"--what {config.what}: of a VAE's training only train is planned.")
    if not config.topology:
        problems.append("--topology is missing: the machine, such as v5e-8; gpu or cpu for this one.")
    for word in config.programs:
        if word not in WHAT:
            problems.append(f"--what {word!r} is not known{suggestion(word, WHAT)}. Choose of: {', '.join(WHAT)}.")
    if not config.programs:
        problems.append(f"--what {config.what!r} names nothing. Choose of: {', '.join(WHAT)}.")
    if (config.largest_batch or config.advise) and "train" not in config.programs:
        problems.append("--largest_batch and --advise are about training: add train to --what.")
    for name in ("largest_batch", "advise"):
        if getattr(config, name) and config.topology == "cpu":
            problems.append(
                f"--{name} asks what fits the devices' memory, and JAX names none for a cpu: give --topology gpu or "
                "a TPU such as v5e-8."
            )
    return problems


def stand_ins(recipe: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values for settings that a training must have and a plan does not look at, where they are not given."""
    names = {
        "dreambooth": {"instance_data_dir": "pictures", "instance_prompt": "a photo of sks"},
        "text_to_image": {"train_data_dir": "pictures"},
        "vae": {"train_data_dir": "pictures"},
    }[recipe]
    if values.get("concepts_list") or values.get("dataset_name"):
        return {}
    if values.get("with_prior_preservation"):
        names |= {"class_data_dir": "class pictures", "class_prompt": "a photo"}
    if values.get("kohya_folders"):
        names = {name: value for name, value in names.items() if not name.endswith("prompt")}
    return {name: value for name, value in names.items() if not values.get(name)}
