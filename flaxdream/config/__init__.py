"""Every knob with its default and unit, as frozen dataclasses: field = YAML key = flag; and what is wrong with them.

No jax, and no file is opened.
"""

from flaxdream.config.checks import SECRETS
from flaxdream.config.dreambooth import DreamBoothConfig, dreambooth_notes, dreambooth_problems
from flaxdream.config.plan import PlanConfig, plan_problems
from flaxdream.config.run import RunConfig
from flaxdream.config.run_checks import batch_problems
from flaxdream.config.sampling import RandomModelConfig, SampleConfig, sample_problems
from flaxdream.config.text_to_image import TextToImageConfig, text_to_image_notes, text_to_image_problems
from flaxdream.config.training import TrainConfig
from flaxdream.config.vae import VaeConfig, vae_notes, vae_problems

__all__ = [
    "SECRETS",
    "DreamBoothConfig",
    "PlanConfig",
    "RandomModelConfig",
    "RunConfig",
    "SampleConfig",
    "TextToImageConfig",
    "TrainConfig",
    "VaeConfig",
    "batch_problems",
    "dreambooth_notes",
    "dreambooth_problems",
    "plan_problems",
    "sample_problems",
    "text_to_image_notes",
    "text_to_image_problems",
    "vae_notes",
    "vae_problems",
]
