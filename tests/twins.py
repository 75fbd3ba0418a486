"""PyTorch twins: the diffusers and transformers models that ours are held against."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from flaxdream.models.architectures import ARCHITECTURES, PAD_TOKENS
from flaxdream.weights.tokenizer import read_tokenizer, write_clip_tokenizer


def randomize(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter drawn anew, norms and biases too, so that no mistake hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
    return module.eval()


def torch_pipeline(architecture: str, folder: Path, seed: int = 0) -> diffusers.StableDiffusionPipeline:
    """A PyTorch StableDiffusionPipeline with random weights; `folder` takes its tokenizer's files."""
    configs = ARCHITECTURES[architecture]
    write_clip_tokenizer(folder, pad_token=PAD_TOKENS[architecture])
    plain = {name: {k: v for k, v in config.items() if k != "_class_name"} for name, config in configs.items()}
    return diffusers.StableDiffusionPipeline(
        unet=randomize(diffusers.UNet2DConditionModel(**plain["unet"]), seed),
        vae=randomize(diffusers.AutoencoderKL(**plain["vae"]), seed + 1),
        text_encoder=randomize(CLIPTextModel(CLIPTextConfig(**plain["text_encoder"])), seed + 2),
        tokenizer=read_tokenizer(folder),
        scheduler=getattr(diffusers, configs["scheduler"]["_class_name"]).from_config(plain["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1."""
    return float(-10 * np.log10(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2) + 1e-20))
