"""What the commands that train by denoising can be told beside a run's own settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxdream.config.run import RunConfig


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Fine-tune a model."""

    # model
    pretrained_vae_name_or_path: str | None = None
    """Another VAE than the model's own: its folder or Hub id."""
    tokenizer_name: str | None = None
    """Another tokenizer than the model's own: its folder or Hub id."""

    # result
    skip_save_text_encoder: bool = False
    """Leave the text encoder out of the written model."""

    # pictures
    cache_latents: Literal["auto", "yes", "no"] = "auto"
    """Encode each picture once: auto does where no crop or flip is drawn. Each step still samples from the VAE."""
    latents_cache_dir: str | None = None
    """Keep what was encoded in this folder, latents and text, for later runs; in memory only if not given."""

    # memory and speed
    attention: Literal["auto", "xla", "chunked", "cudnn", "flash"] = "auto"
    """Attention kernel."""
    vae_slicing: bool = False
    """Encode one picture at a time on each device: less memory where latents are not cached, the same numbers."""

    # learning rate
    train_text_encoder: bool = False
    """Train the text encoder too."""
    text_encoder_lr: float | None = None
    """The text encoder's own learning rate; learning_rate if not given."""
    stop_text_encoder_training: float | None = None
    """The text encoder stops here: optimizer steps if above 1, else a fraction of the training; -1 never trains."""

    # optimizer
    adam_weight_decay_text_encoder: float | None = None
    """The text encoder's own; adam_weight_decay if not given."""

    # loss
    snr_gamma: float | None = None
    """Min-SNR weighting (Hang et al. 2023); 5 is usual."""
    debiased_estimation_loss: bool = False
    """Weight the loss by 1 / sqrt(SNR) (Yu et al. 2023)."""
    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    huber_c: float = 0.1
    """Threshold of huber and smooth_l1: from here on errors count linearly."""
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    """How huber_c changes with the noise level."""
    noise_offset: float = 0.0
    """Share of noise that is the same for a whole channel: teaches dark and bright pictures; 0.1 is usual."""
    input_perturbation: float = 0.0
    """Share of noise that the target does not know of (Ning et al. 2023); 0.1 is usual."""

    multires_noise_iterations: int = 0
    """Levels of coarser noise added to the noise: teaches large shapes and brightness; 6 is usual, 0 none."""
    multires_noise_discount: float = 0.3
    """Weight of each coarser level against the one before."""
    dream_training: bool = False
    """Correct the noise by the model's own error (DREAM, Zhou et al. 2023): one more forward pass a step."""
    dream_detail_preservation: float = 1.0
    """Power of DREAM's correction; higher keeps more detail."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the UNet predicts, if other than the model's scheduler says; it is written into the result."""

    # timesteps
    timestep_sampling: Literal["uniform", "logit_normal"] = "uniform"
    """How timesteps are drawn; logit_normal favours the middle."""
    logit_mean: float = 0.0
    """Of logit_normal; above 0 favours noisy timesteps."""
    logit_std: float = 1.0
    """Of logit_normal."""
    min_timestep: int = 0
    """The least noisy timestep."""
    max_timestep: int | None = None
    """One above the noisiest timestep; all if not given."""
    timestep_bias_strategy: Literal["none", "earlier", "later", "range"] = "none"
    """Draw the first or the last part of the timesteps, or a range, more often."""
    timestep_bias_multiplier: float = 1.0
    """How much more often."""
    timestep_bias_begin: int = 0
    """First timestep of range."""
    timestep_bias_end: int = 1000
    """One above the last timestep of range."""
    timestep_bias_portion: float = 0.25
    """Share of the timesteps that earlier and later mean."""

    # validation pictures
    validation_prompt: tuple[str, ...] = ()
    """One or more prompts, drawn during the training with the same seeds each time."""
    validation_prompts_file: str | None = None
    """A text file, a prompt a line, as prompts_file of `flaxdream sample`."""
    validation_negative_prompt: str = ""
    num_validation_images: int = 4
    """Pictures per prompt."""
    validation_seed: int | None = None
    """Seed of a prompt's first picture; `seed` if not given."""
    validation_scheduler: str = "DPMSolverMultistepScheduler"
    """Sampler: a diffusers class name or a short name, as --sampler of `flaxdream sample`."""
    validation_num_inference_steps: int = 25
    validation_guidance_scale: float = 7.5

    @property
    def keeps_latents(self) -> bool:
        """Whether latents are to be made once, whatever their number."""
        return self.cache_latents == "yes" or self.latents_cache_dir is not None

    @property
    def latents_stay(self) -> bool:
        """Whether latents are made once by these settings, if there are not too many for the memory."""
        same_each_time = self.center_crop and not self.random_flip
        return self.keeps_latents or (self.cache_latents == "auto" and same_each_time)

    @property
    def captions_vary(self) -> bool:
        """Whether rows come with captions of their own, so that the text encoder runs in each step."""
        return False

    @property
    def encoded_at_once(self) -> int:
        """Pictures that a device encodes at once for cached latents."""
        return 1 if self.vae_slicing else self.train_batch_size
