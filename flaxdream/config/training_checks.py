"""What is wrong with the settings of a training by denoising, and what is only odd."""

from __future__ import annotations

import math

from flaxdream.config.checks import LARGEST_SEED, below, not_above_zero, outside
from flaxdream.config.run_checks import optimizer_name, run_notes, run_problems
from flaxdream.config.training import TrainConfig


def train_problems(config: TrainConfig) -> list[str]:
    """Everything wrong with what all trainings by denoising share."""
    not_negative = (
        "adam_weight_decay_text_encoder", "text_encoder_lr", "noise_offset", "input_perturbation",
        "validation_guidance_scale",
    )  # fmt: skip
    return (
        run_problems(config)
        + below(config, ("num_validation_images", "validation_num_inference_steps"), 1)
        + below(config, not_negative, 0)
        + not_above_zero(config, ("huber_c", "snr_gamma"))
        + outside(config, ("validation_seed",), 0, LARGEST_SEED)
        + _text_encoder_problems(config)
        + _loss_problems(config)
    )


def train_notes(config: TrainConfig) -> list[str]:
    """Settings that have no effect, or hardly the one that was meant."""
    notes = run_notes(config)
    if not config.train_text_encoder:
        for name in ("text_encoder_lr", "stop_text_encoder_training", "adam_weight_decay_text_encoder"):
            if getattr(config, name) is not None:
                notes.append(f"--{name} has no effect without --train_text_encoder.")
    return notes


def _text_encoder_problems(config: TrainConfig) -> list[str]:
    problems = []
    stop = config.stop_text_encoder_training
    if stop is not None and not (stop == -1 or 0 <= stop <= 1 or (1 < stop < math.inf and stop == int(stop))):
        problems.append(
            f"--stop_text_encoder_training {stop:g} must be a whole number of steps above 1, a fraction from 0 to 1 of "
            "the training, or -1."
        )
    own = [
        field for field in ("text_encoder_lr", "adam_weight_decay_text_encoder") if getattr(config, field) is not None
    ]
    if optimizer_name(config) == "prodigy" and own and config.train_text_encoder:
        problems.append(
            f"{' and '.join(f'--{field}' for field in own)} with --optimizer prodigy, which finds one step size for "
            "all: leave them out."
        )
    return problems


def _loss_problems(config: TrainConfig) -> list[str]:
    if config.snr_gamma is not None and config.debiased_estimation_loss:
        return ["--snr_gamma and --debiased_estimation_loss both weight the loss by its SNR: keep one."]
    return []
