"""The whole UNet equals diffusers' within 1e-4."""

from __future__ import annotations

import diffusers
import jax
import numpy as np
import pytest
import torch

from flaxdream.models import build
from tests.models.twins import assert_close, draw, nchw, nhwc, twin_of
from tests.twins import randomize

SD1 = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
}
SD2 = SD1 | {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (1, 2, 4),
    "use_linear_projection": True,
    "upcast_attention": True,
}
TEXT_TIME = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 6,
    "projection_class_embeddings_input_dim": 6 * 6 + 10,
}
VARIANTS = {
    "SD 1": SD1,
    "SD 1 with two layers": SD1 | {"layers_per_block": 2, "act_fn": "mish"},
    "SD 2.1-v": SD2,
    "inpainting": SD1 | {"in_channels": 9},
    "numbers per block": SD2 | {"layers_per_block": (1, 2, 1), "transformer_layers_per_block": (1, 2, 3)},
    "context width per block": SD2 | {"cross_attention_dim": (12, 12, 12)},
    "only cross-attention": SD2 | {"only_cross_attention": (True, False, True)},
    "only cross-attention everywhere": SD1 | {"only_cross_attention": True},
    "sines first, shifted": SD1 | {"flip_sin_to_cos": False, "freq_shift": 1},
    "centred input, scaled mid block": SD1 | {"center_input_sample": True, "mid_block_scale_factor": 1.4},
    "other kernels": SD1 | {"conv_out_kernel": 1, "conv_in_kernel": 5},
    "other eps and padding": SD1 | {"norm_eps": 1e-3, "downsample_padding": 0},
    "no mid block, own time width": SD1 | {"mid_block_type": None, "time_embedding_dim": 20},
    "one level": SD1 | {
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
}  # fmt: skip


def inputs(config, batch=2, size=(8, 8)):
    x_bhwc = draw(batch, *size, config.get("in_channels", 4))
    t_b = np.linspace(999, 1, batch).astype(np.int32)
    return x_bhwc, t_b, draw(batch, 7, 12, seed=1)


def expected(theirs, x_bhwc, t_b, context_bsd, **kwargs):
    with torch.no_grad():
        return nhwc(theirs(nchw(x_bhwc), torch.as_tensor(t_b), torch.from_numpy(context_bsd), **kwargs).sample)


FAST = (("SD 1", 1, (8, 8)), ("SD 2.1-v", 3, (9, 13)), ("inpainting", 2, (4, 12)))
SLOW = [(name, 2, (8, 8)) for name in VARIANTS] + [("SD 2.1-v", 1, size) for size in ((7, 8), (1, 5), (12, 4))]


@pytest.mark.parametrize(
    ("variant", "batch", "size"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_unet_is_that_of_diffusers(variant, batch, size):
    config = VARIANTS[variant]
    theirs = randomize(diffusers.UNet2DConditionModel(**config), 0)
    ours, params = twin_of(theirs)
    args = inputs(config, batch, size)
    assert_close(jax.jit(ours)(params, *args), expected(theirs, *args), 1e-4)


@pytest.mark.slow
def test_unet_takes_fractional_timesteps_and_one_timestep_for_all_rows():
    theirs = randomize(diffusers.UNet2DConditionModel(**SD1), 0)
    ours, params = twin_of(theirs)
    x_bhwc, _, context_bsd = inputs(SD1)
    for t in (np.float32(500.25), np.int32(7)):
        assert_close(jax.jit(ours)(params, x_bhwc, t, context_bsd), expected(theirs, x_bhwc, t, context_bsd), 1e-4)


@pytest.mark.slow
def test_text_time_conditions_are_those_of_sdxl():
    config = SD2 | TEXT_TIME
    theirs = randomize(diffusers.UNet2DConditionModel(**config), 0)
    ours, params = twin_of(theirs)
    sizes_b6 = np.array([[1365, 1024, 0, 0, 1024, 1024], [640, 480, 3, 7, 512, 512]], np.float32)
    added = {"text_embeds": draw(2, 10, seed=3), "time_ids": sizes_b6}
    found = jax.jit(ours)(params, *inputs(config), added)
    tensors = {name: torch.from_numpy(array) for name, array in added.items()}
    assert_close(found, expected(theirs, *inputs(config), added_cond_kwargs=tensors), 1e-4)


def test_text_time_conditions_that_are_missing_or_not_used_are_errors():
    for config, added in ((SD1, {"time_ids": draw(2, 6)}), (SD2 | TEXT_TIME, None), (SD2 | TEXT_TIME, {"time_ids": 1})):
        ours = build({"_class_name": "UNet2DConditionModel", **config})
        with pytest.raises(ValueError, match="added_cond"):
            jax.eval_shape(lambda p, o=ours, c=config, a=added: o(p, *inputs(c), a), ours.shapes)


@pytest.mark.slow
def test_rows_do_not_depend_on_their_batch():
    ours, params = twin_of(randomize(diffusers.UNet2DConditionModel(**SD1), 0))
    args = inputs(SD1, batch=3)
    alone = jax.jit(ours)(params, *(a[1:2] for a in args))
    assert_close(jax.jit(ours)(params, *args)[1:2], alone, 1e-6)


@pytest.mark.slow
def test_bfloat16_computation_stays_near_float32():
    theirs = randomize(diffusers.UNet2DConditionModel(**SD2), 0)
    args = inputs(SD2)
    for options in ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "param_dtype": "bfloat16"}):
        ours, params = twin_of(theirs, **options)
        found = jax.jit(ours)(params, *args)
        assert found.dtype == jax.numpy.bfloat16
        assert_close(np.asarray(found, np.float32), expected(theirs, *args), 0.05)
