"""The published shapes of Stable Diffusion as diffusers configs, and tiny ones of the same kind.

A `tiny` model has every kind of layer of the true one and draws in seconds on a CPU; with random weights its
pictures are noise. Numbers: the config files of the SD 1.5 and SD 2.1 releases.
"""

from __future__ import annotations

from typing import Any

Component = dict[str, Any]

_SCHEDULER: Component = {
    "_class_name": "PNDMScheduler",
    "skip_prk_steps": True,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
_SCHEDULER_V: Component = _SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
_UNET_SD1: Component = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "norm_num_groups": 32,
    "use_linear_projection": False,
}
_UNET_SD2: Component = _UNET_SD1 | {
    "sample_size": 96,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
}
_VAE: Component = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_CLIP_SD1: Component = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_CLIP_SD2: Component = _CLIP_SD1 | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}

_TINY_WIDTHS: Component = {"block_out_channels": [32, 64], "layers_per_block": 1}
_UNET_TINY: Component = (
    _UNET_SD1
    | _TINY_WIDTHS
    | {
        "sample_size": 16,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    }
)
_VAE_TINY: Component = (
    _VAE
    | _TINY_WIDTHS
    | {
        "sample_size": 128,
        "block_out_channels": [16, 16, 32, 32],
        "norm_num_groups": 8,
    }
)
_CLIP_TINY: Component = _CLIP_SD1 | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}

# The model that ships with the package: 64 x 64 pixels, latents of 16 x 16.
_UNET_BUILTIN: Component = _UNET_SD1 | {
    "sample_size": 16,
    "block_out_channels": [32, 64, 128],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [1, 2, 4],
    "cross_attention_dim": 128,
    "norm_num_groups": 16,
}
_VAE_BUILTIN: Component = _VAE | {
    "sample_size": 64,
    "block_out_channels": [16, 32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
_CLIP_BUILTIN: Component = _CLIP_SD1 | {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 128,
}

ARCHITECTURES: dict[str, dict[str, Component]] = {
    "sd15": {"unet": _UNET_SD1, "vae": _VAE, "text_encoder": _CLIP_SD1, "scheduler": _SCHEDULER},
    "sd21": {
        "unet": _UNET_SD2,
        "vae": _VAE | {"sample_size": 768},
        "text_encoder": _CLIP_SD2,
        "scheduler": _SCHEDULER_V,
    },
    "tiny": {"unet": _UNET_TINY, "vae": _VAE_TINY, "text_encoder": _CLIP_TINY, "scheduler": _SCHEDULER},
    "tiny-v": {
        "unet": _UNET_TINY | {"use_linear_projection": True, "attention_head_dim": [2, 4], "upcast_attention": True},
        "vae": _VAE_TINY,
        "text_encoder": _CLIP_TINY | {"hidden_act": "gelu"},
        "scheduler": _SCHEDULER_V,
    },
    "builtin": {"unet": _UNET_BUILTIN, "vae": _VAE_BUILTIN, "text_encoder": _CLIP_BUILTIN, "scheduler": _SCHEDULER_V},
}
PAD_TOKENS = {
    "sd15": "<|endoftext|>", "tiny": "<|endoftext|>", "builtin": "<|endoftext|>", "sd21": "!", "tiny-v": "!",
}  # fmt: skip
