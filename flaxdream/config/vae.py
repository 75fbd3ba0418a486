"""What `flaxdream vae` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from flaxdream.config.captioned import CaptionedData, captioned_problems
from flaxdream.config.checks import below
from flaxdream.config.run import RunConfig
from flaxdream.config.run_checks import run_notes, run_problems


@dataclass(frozen=True)
class VaeConfig(CaptionedData, RunConfig):
    """Train a model's VAE on pictures: fine-tune it, or make one from scratch."""

    output_dir: str = "vae-model"
    """Folder for the model with the trained VAE, checkpoints, metrics, reconstructions and the report."""
    tracker_project_name: str = "vae"
    """Project on Weights & Biases."""
    learning_rate: float = 1e-4
    """After warm-up; 1e-3 suits small VAEs from scratch."""
    resolution: int = 256
    """Height and width in pixels of the pictures, and of the crops unless crop_size is given."""
    crop_size: int | None = None
    """Train on crops of so many pixels, drawn anew for each row: a VAE is local, and small crops are quick."""

    # loss
    mse_weight: float = 1.0
    """Weight of the squared error, of pixels in -1..1."""
    l1_weight: float = 0.0
    """Weight of the absolute error; keeps edges sharper."""
    gradient_weight: float = 0.0
    """Weight of the squared error of differences between neighbouring pixels."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence from a normal distribution, summed over a latent cell's channels, mean over cells."""
    initial_logvar: float | None = None
    """From scratch: the log variance that the encoder starts with; -6 keeps noise from drowning the latents."""

    # result
    train_encoder: bool = True
    """Train the encoder too; without it latents stay as they were, and a trained UNet goes on working with them."""
    set_scaling_factor: bool = False
    """Write the scaling factor under which latents have variance 1. For a VAE from scratch: a UNet knows its own."""

    # held-out pictures
    held_out_data_dir: str | None = None
    """Folder of pictures that are not trained on; their PSNR is measured and some of them are shown."""
    held_out_loss_steps: int = 0
    """Optimizer steps from one held-out loss to the next. 0: none."""
    early_stopping_patience: int | None = None
    """End the training when so many held-out losses in a row have not been the lowest."""
    num_validation_images: int = 8
    """Pictures shown beside their reconstruction."""


def vae_problems(config: VaeConfig) -> list[str]:
    """Everything wrong with the settings that can be said without opening a file or asking for devices."""
    weights = ("mse_weight", "l1_weight", "gradient_weight", "kl_weight")
    problems = run_problems(config) + captioned_problems(config)
    problems += below(config, (*weights, "held_out_loss_steps"), 0)
    problems += below(config, ("early_stopping_patience", "num_validation_images", "crop_size"), 1)
    if not any(getattr(config, name) for name in weights[:3]):
        problems.append(f"{', '.join(f'--{name}' for name in weights[:3])} are all 0: nothing would be reconstructed.")
    if config.crop_size is not None and config.crop_size > config.resolution:
        problems.append(f"--crop_size {config.crop_size} must not be above --resolution {config.resolution}.")
    if config.held_out_loss_steps and config.held_out_data_dir is None:
        problems.append("--held_out_loss_steps needs --held_out_data_dir, a folder of other pictures.")
    if config.early_stopping_patience is not None and not config.held_out_loss_steps:
        problems.append("--early_stopping_patience needs --held_out_loss_steps.")
    return problems


def vae_notes(config: VaeConfig) -> list[str]:
    """Settings that have no effect, or hardly the one that was meant."""
    return run_notes(config)
