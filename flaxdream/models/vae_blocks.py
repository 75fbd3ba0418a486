"""The encoder and the decoder of the VAE."""

from __future__ import annotations

from flax import nnx

from flaxdream.arrays import Array, Float
from flaxdream.models import remat
from flaxdream.models.attention import attention
from flaxdream.models.layers import ACTIVATIONS, Compute, Conv, GroupNorm, Linear
from flaxdream.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from flaxdream.models.vae_config import VAEConfig

EPS = 1e-6


class AttentionBlock(nnx.Module):
    """Self-attention of all cells with one head, behind a group norm and around a shortcut."""

    def __init__(self, channels: int, groups: int, compute: Compute):
        self.group_norm = GroupNorm(groups, channels, EPS, compute)
        self.to_q = Linear(channels, channels, compute)
        self.to_k = Linear(channels, channels, compute)
        self.to_v = Linear(channels, channels, compute)
        self.to_out = nnx.List([Linear(channels, channels, compute)])
        self.implementation = compute.attention

    def __call__(self, x_bhwc: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x_bhwc.shape
        y_blc = self.group_norm(x_bhwc).reshape(b, h * w, c)
        q, k, v = (layer(y_blc)[:, :, None] for layer in (self.to_q, self.to_k, self.to_v))
        o_blc = attention(q, k, v, implementation=self.implementation)[:, :, 0]
        return x_bhwc + self.to_out[0](o_blc).reshape(x_bhwc.shape)


class UNetMidBlock2D(nnx.Module):
    """Two resnets with the attention between them, where the config asks for it."""

    def __init__(self, channels: int, config: VAEConfig, compute: Compute):
        self.resnets = nnx.List(_resnet(channels, channels, config, compute) for _ in range(2))
        self.attentions = nnx.List(
            AttentionBlock(channels, config.norm_num_groups, compute)
            for _ in range(int(config.mid_block_add_attention))
        )
        self.remat = compute.remat

    def __call__(self, x_bhwc: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for layer in (self.resnets[0], *self.attentions, self.resnets[1]):
            x_bhwc = remat.block(self.remat, layer, x_bhwc)
        return x_bhwc


class DownEncoderBlock2D(nnx.Module):
    """Resnets, then a halving."""

    def __init__(self, channels_in: int, channels: int, config: VAEConfig, compute: Compute, *, halves: bool):
        self.resnets = nnx.List(
            _resnet(channels_in if i == 0 else channels, channels, config, compute)
            for i in range(config.layers_per_block)
        )
        self.downsamplers = nnx.List(Downsample2D(channels, compute, padding=0) for _ in range(int(halves)))
        self.remat = compute.remat

    def __call__(self, x_bhwc: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        for resnet in self.resnets:
            x_bhwc = remat.block(self.remat, resnet, x_bhwc)
        for downsampler in self.downsamplers:
            x_bhwc = downsampler(x_bhwc)
        return x_bhwc


class UpDecoderBlock2D(nnx.Module):
    """Resnets, one more than on the way down, then a doubling."""

    def __init__(self, channels_in: int, channels: int, config: VAEConfig, compute: Compute, *, doubles: bool):
        self.resnets = nnx.List(
            _resnet(channels_in if i == 0 else channels, channels, config, compute)
            for i in range(config.layers_per_block + 1)
        )
        self.upsamplers = nnx.List(Upsample2D(channels, compute) for _ in range(int(doubles)))
        self.remat = compute.remat

    def __call__(self, x_bhwc: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        for resnet in self.resnets:
            x_bhwc = remat.block(self.remat, resnet, x_bhwc)
        for upsampler in self.upsamplers:
            x_bhwc = upsampler(x_bhwc)
        return x_bhwc


class Encoder(nnx.Module):
    """Pixels to twice the latent channels (means and log variances, before `quant_conv`)."""

    def __init__(self, config: VAEConfig, compute: Compute):
        widths = config.block_out_channels
        self.conv_in = Conv(config.in_channels, widths[0], 3, compute, padding=1)
        self.down_blocks = nnx.List(
            DownEncoderBlock2D(widths[max(i - 1, 0)], width, config, compute, halves=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid_block = UNetMidBlock2D(widths[-1], config, compute)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], EPS, compute)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, 3, compute, padding=1)
        self.remat = compute.remat

    def __call__(self, pixels_bHWc: Float[Array, "b H W c"]) -> Float[Array, "b h w c"]:
        x_bhwc = self.conv_in(pixels_bHWc)
        for block in (*self.down_blocks, self.mid_block):
            x_bhwc = remat.stage(self.remat, block, x_bhwc)
        return self.conv_out(ACTIVATIONS["silu"](self.conv_norm_out(x_bhwc)))


class Decoder(nnx.Module):
    """Latents (after `post_quant_conv`) to pixels."""

    def __init__(self, config: VAEConfig, compute: Compute):
        widths = config.block_out_channels[::-1]
        self.conv_in = Conv(config.latent_channels, widths[0], 3, compute, padding=1)
        self.mid_block = UNetMidBlock2D(widths[0], config, compute)
        self.up_blocks = nnx.List(
            UpDecoderBlock2D(widths[max(i - 1, 0)], width, config, compute, doubles=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], EPS, compute)
        self.conv_out = Conv(widths[-1], config.out_channels, 3, compute, padding=1)
        self.remat = compute.remat

    def __call__(self, z_bhwc: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        x_bhwc = self.conv_in(z_bhwc)
        for block in (self.mid_block, *self.up_blocks):
            x_bhwc = remat.stage(self.remat, block, x_bhwc)
        return self.conv_out(ACTIVATIONS["silu"](self.conv_norm_out(x_bhwc)))


def _resnet(channels_in: int, channels: int, config: VAEConfig, compute: Compute) -> ResnetBlock2D:
    return ResnetBlock2D(
        channels_in,
        channels,
        compute,
        temb_channels=None,
        groups=config.norm_num_groups,
        eps=EPS,
        act_fn=config.act_fn,
    )
