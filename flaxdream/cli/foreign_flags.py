"""Flags of the scripts whose users come to us: what each is here, or why it is not.

A flag with the name of a config field is that field. Of the others, ALIASES are fields under another name,
WITHOUT_EFFECT are taken and answered with a reason, REFUSED are answered with what to do instead. Scripts: diffusers'
train_dreambooth (plain, flax, lora, lora_sdxl) and train_text_to_image (the same and sdxl), ShivamShrirao's,
CrazyBoyM's and ccrcmcpe's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MANY = -1  # as argparse's nargs="+"


@dataclass(frozen=True)
class Alias:
    """Another name of a field; `value` is what the flag stands for if it takes none."""

    field: str
    value: str | None = None


@dataclass(frozen=True)
class WithoutEffect:
    """`takes` is how many values the flag has: 0, 1 or MANY."""

    takes: int
    reason: str


@dataclass(frozen=True)
class Refused:
    """`harmless` are values that ask for nothing that we do not do, and pass."""

    takes: int
    instead: str
    harmless: tuple[str, ...] = ()


ALIASES: Mapping[str, Alias] = {
    "pretrained_vae_model_name_or_path": Alias("pretrained_vae_name_or_path"),
    "offset_noise": Alias("noise_offset", "0.1"),
    "hflip": Alias("random_flip"),
    "not_cache_latents": Alias("cache_latents", "no"),
    "log_with": Alias("report_to"),
    "project": Alias("tracker_project_name"),
    "resume": Alias("resume_from_checkpoint", "latest"),
    "train_n_steps": Alias("max_train_steps"),
    "train_to_epochs": Alias("num_train_epochs"),
    "save_steps": Alias("checkpointing_steps"),
    "save_interval": Alias("checkpointing_steps"),
    "save_model_every_n_steps": Alias("checkpointing_steps"),
    "validation_prompts": Alias("validation_prompt"),
    "save_sample_prompt": Alias("validation_prompt"),
    "save_sample_negative_prompt": Alias("validation_negative_prompt"),
    "n_save_sample": Alias("num_validation_images"),
    "save_guidance_scale": Alias("validation_guidance_scale"),
    "save_infer_steps": Alias("validation_num_inference_steps"),
    "test_prompt": Alias("validation_prompt"),
    "test_prompts_file": Alias("validation_prompts_file"),
    "test_negative_prompt": Alias("validation_negative_prompt"),
    "test_seed": Alias("validation_seed"),
    "test_num_per_prompt": Alias("num_validation_images"),
}

WITHOUT_EFFECT: Mapping[str, WithoutEffect] = {
    "enable_xformers_memory_efficient_attention": WithoutEffect(
        0, "xformers belongs to PyTorch; --attention chooses the kernel, and auto takes a good one."
    ),
    "set_grads_to_none": WithoutEffect(0, "gradients live inside the compiled step; nothing is kept between steps."),
    "allow_tf32": WithoutEffect(0, "XLA uses TF32 for float32 products on GPUs that have it."),
    "local_rank": WithoutEffect(1, "all devices and hosts are found without a launcher."),
    "pre_compute_text_embeddings": WithoutEffect(
        0, "prompts are encoded once in any case, unless their encoder trains."
    ),
    "pad_tokens": WithoutEffect(0, "prompts are always padded to the encoder's 77 tokens, as the pipelines do."),
    "log_interval": WithoutEffect(1, "every step is logged; it costs the device no time."),
    "save_min_steps": WithoutEffect(1, "checkpoints start with the first --checkpointing_steps."),
    "auto_test_model": WithoutEffect(0, "test pictures are drawn whenever there is a --validation_prompt."),
    "foreach_ema": WithoutEffect(0, "the average is one compiled operation over all weights in any case."),
    "from_pt": WithoutEffect(0, "PyTorch's safetensors and Flax's old files are both read as they are."),
    "enable_npu_flash_attention": WithoutEffect(0, "it is for another maker's chips; --attention chooses the kernel."),
    "debug_loss": WithoutEffect(0, "the loss of every step is in metrics.jsonl in any case."),
    "run_id": WithoutEffect(1, "a resumed run goes on in its own W&B run; the id is kept in the output folder."),
}

_LORA = (
    "LoRA is not built yet; this command trains the whole UNet. Leave the flag out, and use a lower --learning_rate."
)
_IF = "it is for DeepFloyd IF, which is not built yet; Stable Diffusion 1.x and 2.x do without it."
_DATASET = (
    "DreamBooth reads folders: save the pictures in one and give --instance_data_dir (text files: --use_txt_as_label)."
)

REFUSED: Mapping[str, Refused] = {
    "rank": Refused(1, _LORA),
    "lora_dropout": Refused(1, _LORA),
    "use_dora": Refused(0, _LORA),
    "output_kohya_format": Refused(0, _LORA),
    "class_labels_conditioning": Refused(1, _IF),
    "validation_images": Refused(MANY, _IF),
    "text_encoder_use_attention_mask": Refused(0, _IF),
    "tokenizer_max_length": Refused(1, "CLIP's text encoder has 77 places; leave the flag out.", ("77",)),
    "do_edm_style_training": Refused(0, "it is for SDXL and Playground v2.5, which are not built yet."),
    "non_ema_revision": Refused(1, "one branch holds the whole model here; give it by --revision."),
    "dataset_name": Refused(1, _DATASET),
    "dataset_config_name": Refused(1, _DATASET),
    "image_column": Refused(1, _DATASET),
    "caption_column": Refused(1, _DATASET),
}
