"""The convolutional blocks that the UNet and the VAE share."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxdream.arrays import Array, Float
from flaxdream.models.layers import ACTIVATIONS, Compute, Conv, GroupNorm, Linear
from flaxdream.models.products import add_vector


class ResnetBlock2D(nnx.Module):
    """Two convolutions, each behind a group norm and an activation, around a shortcut.

    `temb_channels` None is a block without a timestep (the VAE's). The timestep shifts the features between
    the convolutions (`resnet_time_scale_shift` "default"; DeepFloyd IF's "scale_shift" would branch at norm2).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        compute: Compute,
        *,
        temb_channels: int | None,
        groups: int,
        eps: float,
        act_fn: str = "silu",
        output_scale_factor: float = 1.0,
    ):
        self.norm1 = GroupNorm(groups, channels_in, eps, compute)
        self.conv1 = Conv(channels_in, channels_out, 3, compute, padding=1)
        self.time_emb_proj = Linear(temb_channels, channels_out, compute) if temb_channels else None
        self.norm2 = GroupNorm(groups, channels_out, eps, compute)
        self.conv2 = Conv(channels_out, channels_out, 3, compute, padding=1)
        resizes = channels_in != channels_out
        self.conv_shortcut = Conv(channels_in, channels_out, 1, compute) if resizes else None
        self.act_fn, self.output_scale_factor = act_fn, output_scale_factor

    def __call__(
        self, x_bhwc: Float[Array, "b h w c"], temb_bd: Float[Array, "b d"] | None = None
    ) -> Float[Array, "b h w o"]:
        act = ACTIVATIONS[self.act_fn]
        y_bhwc = self.conv1(act(self.norm1(x_bhwc)))
        if self.time_emb_proj is not None and temb_bd is not None:
            y_bhwc = add_vector(y_bhwc, self.time_emb_proj(act(temb_bd)))
        y_bhwc = self.conv2(act(self.norm2(y_bhwc)))
        if self.conv_shortcut is not None:
            x_bhwc = self.conv_shortcut(x_bhwc)
        total = x_bhwc + y_bhwc
        return total if self.output_scale_factor == 1 else total / self.output_scale_factor


class Downsample2D(nnx.Module):
    """A convolution of stride 2. `padding` 0 adds one row below and one column at the right, as the VAE does."""

    def __init__(self, channels: int, compute: Compute, *, padding: int = 1):
        sides = ((0, 1), (0, 1)) if padding == 0 else padding
        self.conv = Conv(channels, channels, 3, compute, stride=2, padding=sides)

    def __call__(self, x_bhwc: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(x_bhwc)


class Upsample2D(nnx.Module):
    """Nearest-neighbour enlargement, twice or to `size` (h, w), then a convolution."""

    def __init__(self, channels: int, compute: Compute):
        self.conv = Conv(channels, channels, 3, compute, padding=1)

    def __call__(
        self, x_bhwc: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        return self.conv(nearest(x_bhwc, size or (2 * x_bhwc.shape[1], 2 * x_bhwc.shape[2])))


def nearest(x_bhwc: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """`x_bhwc` enlarged to `size`; row i of the result is row floor(i h / h2), as torch's "nearest"."""
    for axis, length in zip((1, 2), size):
        old = x_bhwc.shape[axis]
        if length % old == 0:
            x_bhwc = jnp.repeat(x_bhwc, length // old, axis=axis)
        else:
            x_bhwc = jnp.take(x_bhwc, np.arange(length) * old // length, axis=axis)
    return x_bhwc
