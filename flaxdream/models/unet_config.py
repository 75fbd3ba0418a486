"""What config.json says about a UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaxdream.models.config import choice, read_config

# Keys that would change the network, with the values under which they do not.
_FIXED: dict[str, tuple[Any, ...]] = {
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "class_embeddings_concat": (False,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "attention_type": ("default",),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "reverse_transformer_layers_per_block": (None,),
    "dropout": (0.0,),  # diffusers would apply it in training
}
# upcast_attention: our softmax is float32 in any case (in diffusers the default kernel ignores it as well).
# The rest: options of diffusers' Flax classes, which chose a dtype and a kernel.
_IGNORED = (
    "upcast_attention", "addition_embed_type_num_heads",
    "dtype", "use_memory_efficient_attention", "split_head_dim",
)  # fmt: skip

_PER_BLOCK = (
    "down_block_types", "up_block_types", "only_cross_attention", "layers_per_block", "cross_attention_dim",
    "transformer_layers_per_block", "attention_head_dim", "num_attention_heads",
)  # fmt: skip


@dataclass(frozen=True)
class UNetConfig:
    """The keys of config.json under diffusers' names and with diffusers' defaults.

    Beware: `attention_head_dim` is the NUMBER of heads. Values "per block" are one for all levels or a list,
    in the order of the down blocks; the up blocks take the list reversed.
    """

    sample_size: int | tuple[int, ...] | None = None  # latent cells; what pipelines make by default
    in_channels: int = 4  # 9 for inpainting: noisy latents, mask, masked picture's latents
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = choice(
        "CrossAttnDownBlock2D",
        "DownBlock2D",
        default=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    )
    mid_block_type: str | None = choice("UNetMidBlock2DCrossAttn", None, default="UNetMidBlock2DCrossAttn")
    up_block_types: tuple[str, ...] = choice(
        "CrossAttnUpBlock2D",
        "UpBlock2D",
        default=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = choice(0, 1, default=1)
    mid_block_scale_factor: float = 1.0
    act_fn: str = choice("silu", "swish", "mish", "gelu", "relu", default="silu")
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    use_linear_projection: bool = False
    addition_embed_type: str | None = choice(None, "text_time", default=None)
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    time_embedding_dim: int | None = None
    conv_in_kernel: int = choice(1, 3, 5, 7, default=3)
    conv_out_kernel: int = choice(1, 3, 5, 7, default=3)

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> UNetConfig:
        """From a config.json; one ValueError lists all that is not supported."""
        return read_config(cls, source, fixed=_FIXED, ignored=_IGNORED)

    @property
    def heads(self) -> int | tuple[int, ...]:
        """The number of attention heads, per block."""
        return self.num_attention_heads or self.attention_head_dim

    @property
    def time_width(self) -> int:
        """Width of the embedded timestep that the blocks are given."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    def per_block(self, value: Any) -> tuple[Any, ...]:
        """`value` as a tuple with one entry for each level."""
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)

    def problems(self) -> list[str]:
        """What is wrong between the fields, one sentence each."""
        levels = len(self.block_out_channels)
        found = [
            f"{name}: {len(getattr(self, name))} entries; expected {levels}, one for each of block_out_channels."
            for name in _PER_BLOCK
            if isinstance(getattr(self, name), tuple) and len(getattr(self, name)) != levels
        ]
        if found:
            return found
        for channels, heads in zip(self.block_out_channels, self.per_block(self.heads)):
            if channels % self.norm_num_groups:
                found.append(
                    f"block_out_channels: {channels} is not a multiple of norm_num_groups ({self.norm_num_groups})."
                )
            if channels % heads:
                found.append(f"attention_head_dim: {heads} heads do not divide the {channels} channels of their block.")
        if len(set(self.per_block(self.cross_attention_dim))) > 1:
            found.append(
                f"cross_attention_dim: {list(self.per_block(self.cross_attention_dim))}, but all blocks are given "
                "the same text states: expected one width."
            )
        if self.addition_embed_type == "text_time":
            for name in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
                if getattr(self, name) is None:
                    found.append(f"{name}: null, but addition_embed_type 'text_time' needs a number.")
        return found
