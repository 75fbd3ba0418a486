"""Every knob with its default and unit, as frozen dataclasses: field = YAML key = flag; and what is wrong with them.

No jax, and no file is opened.
"""

from flaxdream.config.checks import SECRETS
from flaxdream.config.dreambooth import DreamBoothConfig, dreambooth_notes, dreambooth_problems
from flaxdream.config.sampling import RandomModelConfig, SampleConfig, sample_problems
from flaxdream.config.training import TrainConfig
from flaxdream.config.training_checks import batch_problems

__all__ = [
    "SECRETS",
    "DreamBoothConfig",
    "RandomModelConfig",
    "SampleConfig",
    "TrainConfig",
    "batch_problems",
    "dreambooth_notes",
    "dreambooth_problems",
    "sample_problems",
]
