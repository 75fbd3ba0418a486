"""config.json files: the real ones are read, and what we cannot compute is refused with all reasons at once."""

from __future__ import annotations

import dataclasses
import inspect

import diffusers
import pytest
import transformers

from flaxdream.models.clip_config import CLIPTextConfig
from flaxdream.models.unet_config import UNetConfig
from flaxdream.models.vae_config import VAEConfig

UNET_SD15 = {  # as the release has it, written by diffusers 0.6
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0.dev0", "act_fn": "silu",
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
UNET_SD21 = UNET_SD15 | {
    "_diffusers_version": "0.10.0.dev0", "_name_or_path": "/some/where", "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024, "dual_cross_attention": False, "num_class_embeds": None,
    "only_cross_attention": False, "sample_size": 96, "upcast_attention": True, "use_linear_projection": True,
}  # fmt: skip
UNET_FLAX = {
    k: v for k, v in UNET_SD15.items() if k not in ("act_fn", "norm_eps", "norm_num_groups", "downsample_padding")
} | {"_class_name": "FlaxUNet2DConditionModel", "dropout": 0.0, "dtype": "float32", "split_head_dim": False}
VAE_SD15 = {
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0.dev0", "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3,
    "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
CLIP_SD15 = {
    "_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"], "attention_dropout": 0.0,
    "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768,
    "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768, "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0", "vocab_size": 49408,
}  # fmt: skip
CLIP_VERBOSE = CLIP_SD15 | {  # what transformers 4.2x wrote when it wrote everything
    "add_cross_attention": False, "bad_words_ids": None, "begin_suppress_tokens": None, "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None, "decoder_start_token_id": None, "diversity_penalty": 0.0,
    "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None, "finetuning_task": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "id2label": {"0": "LABEL_0"}, "is_decoder": False, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0}, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "prefix": None,
    "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0,
    "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None, "suppress_tokens": None,
    "task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False, "tie_encoder_decoder": False,
    "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torchscript": False,
    "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip


@pytest.mark.parametrize("config", [UNET_SD15, UNET_SD21, UNET_SD15 | {"in_channels": 9}, UNET_FLAX])
def test_unet_configs_of_the_releases_are_read(config):
    read = UNetConfig.from_dict(config)
    assert read.per_block(read.heads) in ((8, 8, 8, 8), (5, 10, 20, 20))
    assert (read.norm_num_groups, read.norm_eps, read.time_width) == (32, 1e-5, 1280)


def test_all_keys_that_todays_libraries_write_are_read():
    UNetConfig.from_dict(dict(diffusers.UNet2DConditionModel(block_out_channels=(32,) * 4).config))
    VAEConfig.from_dict(dict(diffusers.AutoencoderKL().config))
    CLIPTextConfig.from_dict(transformers.CLIPTextConfig().to_dict())


@pytest.mark.parametrize(("ours", "theirs"), [
    (UNetConfig, diffusers.UNet2DConditionModel), (VAEConfig, diffusers.AutoencoderKL),
    (CLIPTextConfig, transformers.CLIPTextConfig),
])  # fmt: skip
def test_missing_keys_take_the_defaults_of_diffusers_and_transformers(ours, theirs):
    if ours is CLIPTextConfig:
        expected = theirs().to_dict()
    else:
        expected = {name: p.default for name, p in inspect.signature(theirs.__init__).parameters.items()}
    for field in dataclasses.fields(ours):
        assert getattr(ours.from_dict({}), field.name) == expected[field.name], field.name


@pytest.mark.parametrize("config", [VAE_SD15, VAE_SD15 | {"force_upcast": False, "sample_size": [512, 768]}])
def test_vae_configs_of_the_releases_are_read(config):
    read = VAEConfig.from_dict(config)
    assert (read.scaling_factor, read.downscale, read.tile_size, read.shift_factor) == (0.18215, 8, 512, None)


@pytest.mark.parametrize("config", [CLIP_SD15, CLIP_VERBOSE, CLIP_SD15 | {"architectures": ["FlaxCLIPTextModel"]}])
def test_text_encoder_configs_of_the_releases_are_read(config):
    read = CLIPTextConfig.from_dict(config)
    assert (read.num_hidden_layers, read.eos_token_id, read.projected_width) == (12, 2, None)


def test_the_projection_exists_only_in_the_class_that_has_one():
    with_projection = CLIP_SD15 | {"architectures": ["CLIPTextModelWithProjection"]}
    assert CLIPTextConfig.from_dict(with_projection).projected_width == 768


def test_everything_that_is_not_supported_is_said_at_once():
    config = UNET_SD15 | {
        "down_block_types": ["SimpleCrossAttnDownBlock2D"] * 3 + ["ResnetDownsampleBlock2D"],
        "addition_embed_type": "text",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "tanh",
        "in_channels": "four",
        "surprise": 1,
        "layers_per_block": True,
        "class_embed_type": None,
    }
    with pytest.raises(ValueError) as error:
        UNetConfig.from_dict(config)
    message = str(error.value)
    for part in (
        "SimpleCrossAttnDownBlock2D",
        "supported: 'CrossAttnDownBlock2D', 'DownBlock2D'", "supported: None, 'text_time'",
        "resnet_time_scale_shift: 'scale_shift' is not supported; supported: 'default'", "act_fn: 'tanh'",
        "in_channels: 'four' has the wrong type; expected int", "surprise: 1 is not a key",
        "layers_per_block: True has the wrong type; expected int or a list of int",
    ):  # fmt: skip
        assert part in message
    assert "class_embed_type" not in message.split("Known keys")[0]


@pytest.mark.parametrize(("changes", "part"), [
    ({"up_block_types": ["UpBlock2D"]}, "up_block_types: 1 entries; expected 4"),
    ({"attention_head_dim": [5, 10]}, "attention_head_dim: 2 entries; expected 4"),
    ({"attention_head_dim": 7}, "7 heads do not divide the 320 channels"),
    ({"norm_num_groups": 7}, "320 is not a multiple of norm_num_groups (7)"),
    ({"norm_num_groups": None}, "norm_num_groups: None has the wrong type"),
    ({"addition_embed_type": "text_time"}, "addition_time_embed_dim: null"),
    ({"num_class_embeds": 1000}, "num_class_embeds: 1000 is not supported; supported: None"),
    ({"dropout": 0.1}, "dropout: 0.1 is not supported; supported: 0.0"),
    ({"cross_attention_dim": [768, 768, 768, 1024]}, "cross_attention_dim"),
])  # fmt: skip
def test_unet_numbers_that_do_not_fit_are_refused(changes, part):
    with pytest.raises(ValueError) as error:
        UNetConfig.from_dict(UNET_SD15 | changes)
    assert part in str(error.value)


@pytest.mark.parametrize(("cls", "config", "part"), [
    (VAEConfig, VAE_SD15 | {"up_block_types": ["AttnUpDecoderBlock2D"] * 4}, "supported: 'UpDecoderBlock2D'"),
    (VAEConfig, VAE_SD15 | {"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types: 1 entries; expected 4"),
    (VAEConfig, VAE_SD15 | {"norm_num_groups": 7}, "128 is not a multiple of norm_num_groups (7)"),
    (CLIPTextConfig, CLIP_SD15 | {"hidden_act": "relu"}, "supported: 'quick_gelu', 'gelu', 'gelu_new'"),
    (CLIPTextConfig, CLIP_SD15 | {"num_attention_heads": 7}, "7 do not divide hidden_size (768)"),
    (CLIPTextConfig, CLIP_SD15 | {"architectures": ["T5"]}, "architectures: ['T5'] is not supported"),
    (CLIPTextConfig, CLIP_SD15 | {"quantization_config": {"bits": 8}}, "quantization_config"),
    (CLIPTextConfig, CLIP_SD15 | {"model_type": "t5"}, "model_type: 't5' is not supported"),
    (CLIPTextConfig, CLIP_SD15 | {"eos_token_id": None}, "eos_token_id: None has the wrong type"),
])  # fmt: skip
def test_vae_and_text_encoder_configs_that_cannot_be_computed_are_refused(cls, config, part):
    with pytest.raises(ValueError) as error:
        cls.from_dict(config)
    assert part in str(error.value)
