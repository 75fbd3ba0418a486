"""The autoencoder of Stable Diffusion: pixels to latents and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxdream.arrays import Array, Float, Key
from flaxdream.models.layers import Compute, Conv
from flaxdream.models.network import Network, network
from flaxdream.models.tiles import tiled
from flaxdream.models.vae_blocks import Decoder, Encoder
from flaxdream.models.vae_config import VAEConfig

Latents = Float[Array, "b h w c"]
Pixels = Float[Array, "b H W c"]

TILE_OVERLAP = 0.25


def vae(config: VAEConfig | Mapping[str, Any], **compute: Any) -> Network:
    """The VAE of a config (or of the dict of a config.json); options are the fields of `layers.Compute`."""
    if not isinstance(config, VAEConfig):
        config = VAEConfig.from_dict(config)
    how = Compute(**compute)
    return network(lambda: AutoencoderKL(config, how), config)


def sample_moments(mean_bhwc: Latents, logvar_bhwc: Latents, key: Key[Array, ""]) -> Latents:
    """A draw from the latent distribution that `moments` describes."""
    noise_bhwc = jax.random.normal(key, mean_bhwc.shape, mean_bhwc.dtype)
    return mean_bhwc + jnp.exp(0.5 * logvar_bhwc) * noise_bhwc


class AutoencoderKL(nnx.Module):
    """Equal to diffusers' class of this name. Pixels are in -1..1; latents are not scaled here."""

    def __init__(self, config: VAEConfig, compute: Compute):
        z = config.latent_channels
        self.encoder = Encoder(config, compute)
        self.decoder = Decoder(config, compute)
        self.quant_conv = Conv(2 * z, 2 * z, 1, compute) if config.use_quant_conv else None
        self.post_quant_conv = Conv(z, z, 1, compute) if config.use_post_quant_conv else None
        self.config, self.dtype = config, compute.dtype

    def __call__(self, pixels_bHWc: Pixels) -> Pixels:
        """The pixels after a way there and back through the most likely latents."""
        return self.decode(self.moments(pixels_bHWc)[0])

    def moments(self, pixels_bHWc: Pixels) -> tuple[Latents, Latents]:
        """Mean and log variance (clamped to -30..20) of the latents, in float32."""
        return _split(self._encode(pixels_bHWc))

    def moments_tiled(
        self, pixels_bHWc: Pixels, tile_size: int | None = None, overlap: float = TILE_OVERLAP
    ) -> tuple[Latents, Latents]:
        """`moments` tile by tile; as diffusers' VAE after `enable_tiling()`."""
        pixels, cells = self._tile(tile_size)
        if max(pixels_bHWc.shape[1:3]) <= pixels:
            return self.moments(pixels_bHWc)
        return _split(tiled(self._encode, pixels_bHWc, pixels, cells, overlap))

    def decode(self, z_bhwc: Latents) -> Pixels:
        """Pixels, about -1..1 and not clipped, of unscaled latents."""
        z_bhwc = z_bhwc.astype(self.dtype)
        return self.decoder(z_bhwc if self.post_quant_conv is None else self.post_quant_conv(z_bhwc))

    def decode_tiled(self, z_bhwc: Latents, tile_size: int | None = None, overlap: float = TILE_OVERLAP) -> Pixels:
        """`decode` with memory for one tile at a time; as diffusers' VAE after `enable_tiling()`.

        `tile_size` is in pixels, the config's `sample_size` unless given. Latents that fit into one tile are
        decoded plainly. The norms and the attention see one tile only, so large pictures differ slightly
        from `decode`.
        """
        pixels, cells = self._tile(tile_size)
        if max(z_bhwc.shape[1:3]) <= cells:
            return self.decode(z_bhwc)
        return tiled(self.decode, z_bhwc, cells, pixels, overlap)

    def _encode(self, pixels_bHWc: Pixels) -> Float[Array, "b h w c"]:
        moments_bhwc = self.encoder(pixels_bHWc.astype(self.dtype))
        return moments_bhwc if self.quant_conv is None else self.quant_conv(moments_bhwc)

    def _tile(self, tile_size: int | None) -> tuple[int, int]:
        pixels = self.config.tile_size if tile_size is None else tile_size
        cells = pixels // self.config.downscale
        if cells < 2:
            raise ValueError(
                f"VAE tiles of {pixels} pixels are {cells} latent cells wide; give a tile_size of at least "
                f"{8 * self.config.downscale}."
            )
        return pixels, cells


def _split(moments_bhwc: Float[Array, "b h w c"]) -> tuple[Latents, Latents]:
    mean_bhwc, logvar_bhwc = jnp.split(moments_bhwc.astype(jnp.float32), 2, axis=-1)
    return mean_bhwc, jnp.clip(logvar_bhwc, -30.0, 20.0)
