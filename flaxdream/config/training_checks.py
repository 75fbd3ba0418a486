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
        "validation_guidance_scale", "multires_noise_iterations", "multires_noise_discount",
        "dream_detail_preservation", "min_timestep", "timestep_bias_multiplier", "timestep_bias_begin",
    )  # fmt: skip
    return (
        run_problems(config)
        + below(config, ("num_validation_images", "validation_num_inference_steps"), 1)
        + below(config, not_negative, 0)
        + not_above_zero(config, ("huber_c", "snr_gamma", "logit_std", "max_timestep", "timestep_bias_end"))
        + outside(config, ("timestep_bias_portion",), 0, 1)
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
    for switch, wanted, names in (
        ("timestep_bias_strategy", config.timestep_bias_strategy != "none", ("timestep_bias_multiplier",)),
        ("timestep_sampling logit_normal", config.timestep_sampling == "logit_normal", ("logit_mean", "logit_std")),
        ("dream_training", config.dream_training, ("dream_detail_preservation",)),
        ("multires_noise_iterations", bool(config.multires_noise_iterations), ("multires_noise_discount",)),
    ):
        changed = [name for name in names if getattr(config, name) != getattr(TrainConfig, name)]
        if changed and not wanted:
            notes.append(f"{' and '.join(f'--{name}' for name in changed)} without --{switch}: no effect.")
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
    problems = []
    if config.latents_cache_dir is not None and config.cache_latents == "no":
        problems.append("--latents_cache_dir with --cache_latents no: keep one of them.")
    if config.random_flip and config.keeps_latents:
        problems.append(
            "--random_flip with latents that are kept (--cache_latents yes, --latents_cache_dir): a kept latent cannot "
            "be flipped; leave one of them out."
        )
    if config.snr_gamma is not None and config.debiased_estimation_loss:
        problems.append("--snr_gamma and --debiased_estimation_loss both weight the loss by its SNR: keep one.")
    if config.timestep_sampling != "uniform" and config.timestep_bias_strategy != "none":
        problems.append(
            f"--timestep_sampling {config.timestep_sampling} and --timestep_bias_strategy "
            f"{config.timestep_bias_strategy} both say how timesteps are drawn: keep one."
        )
    if config.max_timestep is not None and config.max_timestep <= config.min_timestep:
        problems.append(f"--max_timestep {config.max_timestep} must be above --min_timestep {config.min_timestep}.")
    return problems
