"""The resolution levels of the UNet, with and without attention to the text."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx

from flaxdream.arrays import Array, Float
from flaxdream.models import remat
from flaxdream.models.layers import Compute
from flaxdream.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from flaxdream.models.transformer import Transformer2DModel

Features = Float[Array, "b h w c"]


@dataclass(frozen=True)
class Level:
    """What all layers of one level share."""

    channels: int
    temb_channels: int
    groups: int
    eps: float
    act_fn: str
    heads: int
    context_width: int
    transformer_layers: int
    use_linear_projection: bool
    only_cross_attention: bool = False

    def resnet(self, channels_in: int, compute: Compute, *, scale: float = 1.0) -> ResnetBlock2D:
        return ResnetBlock2D(
            channels_in,
            self.channels,
            compute,
            temb_channels=self.temb_channels,
            groups=self.groups,
            eps=self.eps,
            act_fn=self.act_fn,
            output_scale_factor=scale,
        )

    def transformer(self, compute: Compute) -> Transformer2DModel:
        return Transformer2DModel(
            self.channels,
            self.heads,
            self.transformer_layers,
            self.context_width,
            compute,
            groups=self.groups,
            use_linear_projection=self.use_linear_projection,
            only_cross_attention=self.only_cross_attention,
        )


class DownBlock2D(nnx.Module):
    """Resnets, then a halving; gives the features and all that the up block of this level will be shown."""

    has_cross_attention = False

    def __init__(
        self,
        channels_in: int,
        level: Level,
        layers: int,
        compute: Compute,
        *,
        halves: bool,
        downsample_padding: int = 1,
    ):
        self.resnets = nnx.List(level.resnet(channels_in if i == 0 else level.channels, compute) for i in range(layers))
        self.attentions = nnx.List(level.transformer(compute) for _ in range(layers if self.has_cross_attention else 0))
        self.downsamplers = nnx.List(
            Downsample2D(level.channels, compute, padding=downsample_padding) for _ in range(int(halves))
        )
        self.remat = compute.remat

    def __call__(
        self, x_bhwc: Features, temb_bd: Float[Array, "b d"], context_bsd: Float[Array, "b s d"]
    ) -> tuple[Features, tuple[Features, ...]]:
        shown = []
        for i, resnet in enumerate(self.resnets):
            x_bhwc = remat.block(self.remat, resnet, x_bhwc, temb_bd)
            if self.has_cross_attention:
                x_bhwc = remat.block(self.remat, self.attentions[i], x_bhwc, context_bsd)
            shown.append(x_bhwc)
        for downsampler in self.downsamplers:
            x_bhwc = downsampler(x_bhwc)
            shown.append(x_bhwc)
        return x_bhwc, tuple(shown)


class CrossAttnDownBlock2D(DownBlock2D):
    """A DownBlock2D with a transformer after each resnet."""

    has_cross_attention = True


class UNetMidBlock2DCrossAttn(nnx.Module):
    """A resnet, a transformer and another resnet at the lowest resolution."""

    def __init__(self, level: Level, compute: Compute, *, scale_factor: float = 1.0):
        self.resnets = nnx.List(level.resnet(level.channels, compute, scale=scale_factor) for _ in range(2))
        self.attentions = nnx.List([level.transformer(compute)])
        self.remat = compute.remat

    def __call__(self, x_bhwc: Features, temb_bd: Float[Array, "b d"], context_bsd: Float[Array, "b s d"]) -> Features:
        x_bhwc = remat.block(self.remat, self.resnets[0], x_bhwc, temb_bd)
        x_bhwc = remat.block(self.remat, self.attentions[0], x_bhwc, context_bsd)
        return remat.block(self.remat, self.resnets[1], x_bhwc, temb_bd)


class UpBlock2D(nnx.Module):
    """Resnets that are each shown what one layer on the way down made, then a doubling."""

    has_cross_attention = False

    def __init__(
        self,
        channels_in: int,
        channels_below: int,
        level: Level,
        layers: int,
        compute: Compute,
        *,
        doubles: bool,
    ):
        """`channels_in` come from the block before; `channels_below` is the width one level up the picture."""
        self.resnets = nnx.List(
            level.resnet(
                (channels_in if i == 0 else level.channels) + (channels_below if i == layers - 1 else level.channels),
                compute,
            )
            for i in range(layers)
        )
        self.attentions = nnx.List(level.transformer(compute) for _ in range(layers if self.has_cross_attention else 0))
        self.upsamplers = nnx.List(Upsample2D(level.channels, compute) for _ in range(int(doubles)))
        self.remat = compute.remat

    def __call__(
        self,
        x_bhwc: Features,
        shown: tuple[Features, ...],
        temb_bd: Float[Array, "b d"],
        context_bsd: Float[Array, "b s d"],
        size: tuple[int, int] | None,
    ) -> Features:
        """`shown` in the order of the way down, the last first to be used; `size` (h, w) to double to."""
        for i, (resnet, other_bhwc) in enumerate(zip(self.resnets, reversed(shown), strict=True)):
            x_bhwc = remat.block(self.remat, resnet, jnp.concatenate([x_bhwc, other_bhwc], axis=-1), temb_bd)
            if self.has_cross_attention:
                x_bhwc = remat.block(self.remat, self.attentions[i], x_bhwc, context_bsd)
        for upsampler in self.upsamplers:
            x_bhwc = upsampler(x_bhwc, size)
        return x_bhwc


class CrossAttnUpBlock2D(UpBlock2D):
    """An UpBlock2D with a transformer after each resnet."""

    has_cross_attention = True


DOWN_BLOCKS = {"DownBlock2D": DownBlock2D, "CrossAttnDownBlock2D": CrossAttnDownBlock2D}
UP_BLOCKS = {"UpBlock2D": UpBlock2D, "CrossAttnUpBlock2D": CrossAttnUpBlock2D}
