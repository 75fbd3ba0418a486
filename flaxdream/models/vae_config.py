"""What config.json says about an AutoencoderKL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaxdream.models.config import choice, read_config

# force_upcast chooses a dtype in diffusers; here the caller does. The rest are options of the Flax class.
_IGNORED = ("force_upcast", "dtype")


@dataclass(frozen=True)
class VAEConfig:
    """The keys of config.json under diffusers' names and with diffusers' defaults.

    Latents for the UNet are (z - shift_factor) * scaling_factor, or normalized with latents_mean and
    latents_std; the network itself neither scales nor shifts.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = choice("DownEncoderBlock2D", default=("DownEncoderBlock2D",))
    up_block_types: tuple[str, ...] = choice("UpDecoderBlock2D", default=("UpDecoderBlock2D",))
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = choice("silu", "swish", "mish", "gelu", "relu", default="silu")
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, ...] = 32  # pixels; the side of a tile in tiled decoding
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> VAEConfig:
        """From a config.json; one ValueError lists all that is not supported."""
        return read_config(cls, source, fixed={}, ignored=_IGNORED)

    @property
    def downscale(self) -> int:
        """Pixels per latent cell, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def tile_size(self) -> int:
        """Side in pixels of a tile, as diffusers chooses it."""
        return self.sample_size[0] if isinstance(self.sample_size, tuple) else self.sample_size

    def problems(self) -> list[str]:
        """What is wrong between the fields, one sentence each."""
        found = []
        for name in ("down_block_types", "up_block_types"):
            if len(getattr(self, name)) != len(self.block_out_channels):
                found.append(
                    f"{name}: {len(getattr(self, name))} entries; expected {len(self.block_out_channels)}, "
                    "one for each of block_out_channels."
                )
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                found.append(
                    f"block_out_channels: {channels} is not a multiple of norm_num_groups ({self.norm_num_groups})."
                )
        return found
