"""What every command that trains can be told, whichever network. Names and defaults: diffusers' train_dreambooth.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Precision = Literal["no", "fp16", "bf16"]
LearningRates = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "piecewise_constant"
]
RematPolicy = Literal["none", "dots", "blocks", "full", "offload"]


@dataclass(frozen=True)
class RunConfig:
    """Train a model."""

    # model
    pretrained_model_name_or_path: str = ""
    """A model folder in the diffusers layout, the id of one on the Hugging Face Hub, or builtin, a small one."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    variant: str | None = None
    """Which weight files, for example fp16; the plain ones if not given."""
    cache_dir: str | None = None
    """Where downloads are kept; the Hub's own cache if not given."""

    # result
    output_dir: str = "trained-model"
    """Folder for the trained model, checkpoints, metrics, validation pictures and the report."""
    push_to_hub: bool = False
    """Upload the finished model."""
    hub_model_id: str | None = None
    """Repository to upload to; the name of output_dir under your account if not given."""
    hub_token: str | None = None
    """Token for the Hub; the one of `hf auth login` if not given. It is never written down."""
    hub_private_repo: bool = False
    """Make a new repository private."""

    # pictures
    resolution: int = 512
    """Height and width in pixels; a multiple of 8. 768 for SD 2.x-768."""
    center_crop: bool = False
    """Cut the middle of each picture, not a place drawn anew each time."""
    random_flip: bool = False
    """Mirror half of the pictures, drawn anew each time. Not for faces and text."""
    image_interpolation_mode: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bilinear"
    """How pictures are resized."""
    skip_broken_images: bool = False
    """Go on without pictures that cannot be read; else they are named and the run does not start."""
    dataloader_num_workers: int = 0
    """Processes that decode pictures; 0 decodes in a thread of the training itself."""

    # length and batch
    seed: int = 0
    """Every random number follows from it, on any number of devices. (diffusers: none, each run differs.)"""
    train_batch_size: int = 4
    """Pictures per device and forward pass, class pictures not counted."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimizer step."""
    num_train_epochs: int = 1
    """Length of the training if max_train_steps is not given."""
    max_train_steps: int | None = None
    """Optimizer steps; wins over num_train_epochs."""

    # memory and speed
    mixed_precision: Precision = "no"
    """no computes in float32; bf16 is for TPUs and recent GPUs; fp16 scales the loss."""
    params_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of what trains, its master weights. bfloat16 halves its memory and rounds updates stochastically."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    gradient_checkpointing_policy: RematPolicy | None = None
    """What is kept: none, dots, blocks (that of gradient_checkpointing), full or offload."""
    fsdp: int = 1
    """Devices over which each weight and optimizer state is cut; all devices train on their own pictures anyway."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the host's memory; each step moves it to the device and back."""
    compilation_cache_dir: str | None = "~/.cache/flaxdream/xla"
    """Compiled programs are kept here, so that the next start is quick; "" keeps none."""
    fast_compile: bool = False
    """For TPUs: compile in 0.6 of the time, for steps that take an eighth to a fifth longer."""

    # learning rate
    learning_rate: float = 5e-6
    """After warm-up. 5e-6 suits the whole UNet; 2e-6 with the text encoder; 1 with prodigy."""
    scale_lr: bool = False
    """Multiply it by devices x train_batch_size x gradient_accumulation_steps."""
    lr_scheduler: LearningRates = "constant"
    """How the learning rate goes on after warm-up."""
    lr_warmup_steps: int = 500
    """Optimizer steps of warm-up; constant and piecewise_constant have none."""
    lr_num_cycles: int = 1
    """Restarts of cosine_with_restarts."""
    lr_power: float = 1.0
    """Power of polynomial."""
    lr_step_rules: str | None = None
    """For piecewise_constant: '1:10,0.1:20,0.05' is factor 1 before step 10, 0.1 before step 20, then 0.05."""

    # optimizer
    optimizer: str = "adamw"
    """adamw, adamw8bit, adam, adafactor, lion, prodigy, schedule_free or sgd."""
    use_8bit_adam: bool = False
    """The same as optimizer adamw8bit: Adam's state in a quarter of the memory."""
    adam_beta1: float = 0.9
    """For adam, adamw, adamw8bit, prodigy and schedule_free, as the next three."""
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adam_weight_decay: float = 0.01
    """Not for adam, whose decay would be part of the gradient."""
    prodigy_beta3: float | None = None
    """Decay of the step-size estimate; the square root of adam_beta2 if not given."""
    prodigy_decouple: bool = True
    """Weight decay apart from the gradient, as AdamW's."""
    prodigy_use_bias_correction: bool = True
    prodigy_safeguard_warmup: bool = True
    """Keep warm-up from raising the step-size estimate."""
    prodigy_d0: float = 1e-6
    """First step-size estimate."""
    prodigy_d_coef: float = 1.0
    """Multiplies the step-size estimate."""
    optimizer_args: tuple[str, ...] = ()
    """The optimizer's other options as name=value, such as momentum=0.9 for sgd or beta2=0.99 for lion."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 does not clip."""

    # moving average
    use_ema: bool = False
    """Keep an exponential moving average of the trained weights, and write that."""
    ema_decay: float = 0.9999
    """At most; the average starts as a copy and slows down."""
    ema_min_decay: float = 0.0
    ema_update_after_step: int = 0
    """Until this optimizer step it is a copy."""
    ema_use_warmup: bool = False
    """Decay 1 - (1 + step / ema_inv_gamma) ** -ema_power, not (1 + step) / (10 + step)."""
    ema_inv_gamma: float = 1.0
    ema_power: float = 2 / 3
    ema_dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 halves its memory, with stochastic rounding."""
    offload_ema: bool = False
    """Keep the average in the host's memory; each step moves it to the device and back."""

    # validation pictures
    validation_steps: int = 100
    """Optimizer steps from one validation to the next; also before the first step and after the last."""
    validation_epochs: int | None = None
    """Epochs from one validation to the next, instead of validation_steps."""

    # checkpoints and logs
    checkpointing_steps: int = 500
    """Optimizer steps from one checkpoint to the next; 0 saves at the end and when stopped only."""
    checkpoints_total_limit: int | None = None
    """Checkpoints to keep; all if not given."""
    resume_from_checkpoint: str | None = None
    """Go on from `latest`, or from a checkpoint's name or path."""
    report_to: str | None = None
    """tensorboard, wandb, several with commas, all or none; TensorBoard where it is installed if not given."""
    logging_dir: str = "logs"
    """Folder of the trackers' files inside output_dir."""
    tracker_project_name: str = "flaxdream"
    """Project on Weights & Biases."""

    @property
    def remat(self) -> str:
        """The name of the gradient checkpointing policy."""
        return self.gradient_checkpointing_policy or ("blocks" if self.gradient_checkpointing else "none")

    def validation_every(self, steps_per_epoch: Callable[[], int]) -> int:
        """Optimizer steps from one validation to the next; those of an epoch are asked for only where they count."""
        return self.validation_steps if self.validation_epochs is None else self.validation_epochs * steps_per_epoch()

    def rows_per_step(self, devices: int) -> int:
        """Pictures of an optimizer step, class pictures not counted."""
        return self.train_batch_size * self.gradient_accumulation_steps * devices
