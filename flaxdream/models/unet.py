"""The denoising network of Stable Diffusion: a UNet that is told the timestep and the text."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from flaxdream.arrays import Array, Float, Shaped
from flaxdream.models import remat
from flaxdream.models.embeddings import TimestepEmbedding, timestep_embedding
from flaxdream.models.layers import ACTIVATIONS, Compute, Conv, GroupNorm
from flaxdream.models.network import Network, network
from flaxdream.models.unet_blocks import DOWN_BLOCKS, UP_BLOCKS, Level, UNetMidBlock2DCrossAttn
from flaxdream.models.unet_config import UNetConfig


def unet(config: UNetConfig | Mapping[str, Any], **compute: Any) -> Network:
    """The UNet of a config (or of the dict of a config.json); options are the fields of `layers.Compute`."""
    if not isinstance(config, UNetConfig):
        config = UNetConfig.from_dict(config)
    how = Compute(**compute)
    return network(lambda: UNet2DConditionModel(config, how), config)


class UNet2DConditionModel(nnx.Module):
    """Equal to diffusers' class of this name for SD 1.x and 2.x, inpainting, and SDXL's `text_time`.

    Latents of any size are taken. Where a side cannot be halved evenly, the up blocks are told the size to
    double to, as diffusers does.
    """

    def __init__(self, config: UNetConfig, compute: Compute):
        widths = config.block_out_channels
        self.conv_in = _same_size_conv(config.in_channels, widths[0], config.conv_in_kernel, compute)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_width, compute, act_fn=config.act_fn)
        if config.addition_embed_type == "text_time":
            assert config.projection_class_embeddings_input_dim is not None
            self.add_embedding = TimestepEmbedding(
                config.projection_class_embeddings_input_dim, config.time_width, compute
            )
        levels = [_level(config, i) for i in range(len(widths))]
        self.down_blocks = nnx.List(_down_blocks(config, levels, compute))
        if config.mid_block_type is None:
            self.mid_block = None
        else:
            self.mid_block = UNetMidBlock2DCrossAttn(
                _level(config, len(widths) - 1, mid=True), compute, scale_factor=config.mid_block_scale_factor
            )
        self.up_blocks = nnx.List(_up_blocks(config, levels, compute))
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], config.norm_eps, compute)
        self.conv_out = _same_size_conv(widths[0], config.out_channels, config.conv_out_kernel, compute)
        self.config, self.compute = config, compute

    def __call__(
        self,
        x_bhwc: Float[Array, "b h w c"],
        t_b: Shaped[Array, " b"],
        context_bsd: Float[Array, "b s d"],
        added_cond: Mapping[str, Array] | None = None,
    ) -> Float[Array, "b h w o"]:
        """What the network says about noisy latents `x_bhwc` at timesteps `t_b` (integers or floats; one for all
        rows is enough) given the text states. `added_cond` is for `text_time` only: `text_embeds` [b, d] and
        `time_ids` [b, 6].
        """
        config, policy = self.config, self.compute.remat
        x_bhwc = x_bhwc.astype(self.compute.dtype)
        context_bsd = context_bsd.astype(self.compute.dtype)
        if config.center_input_sample:
            x_bhwc = 2 * x_bhwc - 1
        temb_bd = self._embedded_time(jnp.broadcast_to(jnp.asarray(t_b), x_bhwc.shape[:1]), added_cond)

        x_bhwc = self.conv_in(x_bhwc)
        shown = [x_bhwc]
        for down_block in self.down_blocks:
            x_bhwc, made = remat.stage(policy, down_block, x_bhwc, temb_bd, context_bsd)
            shown += made
        if self.mid_block is not None:
            x_bhwc = remat.stage(policy, self.mid_block, x_bhwc, temb_bd, context_bsd)
        for up_block in self.up_blocks:
            count = len(up_block.resnets)
            shown, used = shown[:-count], tuple(shown[-count:])
            size = shown[-1].shape[1:3] if shown else None

            def run(x: Array, *rest: Any, block: Any = up_block, size: Any = size) -> Array:
                return block(x, *rest, size)

            x_bhwc = remat.stage(policy, run, x_bhwc, used, temb_bd, context_bsd)
        return self.conv_out(ACTIVATIONS[config.act_fn](self.conv_norm_out(x_bhwc)))

    def _embedded_time(self, t_b: Shaped[Array, " b"], added_cond: Mapping[str, Array] | None) -> Float[Array, "b d"]:
        config = self.config
        waves = functools.partial(
            timestep_embedding, flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )
        temb_bd = self.time_embedding(waves(t_b, config.block_out_channels[0]))
        if config.addition_embed_type is None:
            if added_cond is not None:
                raise ValueError("added_cond was given, but this UNet's addition_embed_type is null.")
            return temb_bd
        if added_cond is None or set(added_cond) != {"text_embeds", "time_ids"}:
            given = None if added_cond is None else sorted(added_cond)
            raise ValueError(f"added_cond is {given}; this UNet (text_time) needs text_embeds and time_ids.")
        ids_b6 = added_cond["time_ids"]  # sizes in pixels: bfloat16 would turn 1365 into 1368
        assert config.addition_time_embed_dim is not None
        embedded_bd = waves(ids_b6.reshape(-1), config.addition_time_embed_dim).reshape(ids_b6.shape[0], -1)
        text_bd = added_cond["text_embeds"].astype(jnp.float32)
        return temb_bd + self.add_embedding(jnp.concatenate([text_bd, embedded_bd], axis=-1))


def _same_size_conv(channels_in: int, channels_out: int, size: int, compute: Compute) -> Conv:
    return Conv(channels_in, channels_out, size, compute, padding=(size - 1) // 2)


def _level(config: UNetConfig, i: int, *, mid: bool = False) -> Level:
    return Level(
        channels=config.block_out_channels[i],
        temb_channels=config.time_width,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        act_fn=config.act_fn,
        heads=config.per_block(config.heads)[i],
        context_width=config.per_block(config.cross_attention_dim)[i],
        transformer_layers=config.per_block(config.transformer_layers_per_block)[i],
        use_linear_projection=config.use_linear_projection,
        only_cross_attention=config.per_block(config.only_cross_attention)[i] and not mid,
    )


def _down_blocks(config: UNetConfig, levels: list[Level], compute: Compute) -> list[Any]:
    layers = config.per_block(config.layers_per_block)
    return [
        DOWN_BLOCKS[kind](
            levels[max(i - 1, 0)].channels,
            levels[i],
            layers[i],
            compute,
            halves=i < len(levels) - 1,
            downsample_padding=config.downsample_padding,
        )
        for i, kind in enumerate(config.down_block_types)
    ]


def _up_blocks(config: UNetConfig, levels: list[Level], compute: Compute) -> list[Any]:
    layers = config.per_block(config.layers_per_block)
    last = len(levels) - 1
    return [
        UP_BLOCKS[kind](
            levels[min(i + 1, last)].channels,
            levels[max(i - 1, 0)].channels,
            levels[i],
            layers[i] + 1,
            compute,
            doubles=i > 0,
        )
        for i, kind in zip(reversed(range(len(levels))), config.up_block_types)
    ]
