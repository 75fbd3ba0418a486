"""Prompt tokens to pictures: text encoder, denoising loop and decoder, in one compiled call or call by call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxdream.arrays import Array, Float, Int, Key, Params
from flaxdream.compiler_options import ToldJit
from flaxdream.diffusion.guidance import guide
from flaxdream.diffusion.samplers import Sampler, advance
from flaxdream.models.network import Network
from flaxdream.sampling.placement import drop_device_axis

# Folded into a picture's key for the sampler's own noise. The first latents are drawn from the key itself,
# as the diffusers Flax pipeline did; the tag lies far above their number of elements, so no draw is shared.
SAMPLER_NOISE = 0x7A3D_51F0


@dataclass(frozen=True)
class Networks:
    """The three networks that turn tokens into a picture."""

    text_encoder: Network
    unet: Network
    vae: Network

    @property
    def downscale(self) -> int:
        """Pixels a latent cell: 8 for the Stable Diffusion autoencoders."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels


@dataclass(frozen=True)
class Settings:
    """What is compiled in. Everything else (tokens, latents, keys, guidance scale) is an argument."""

    guided: bool = True  # False: the negative prompt is not run at all (guidance_scale <= 1)
    guidance_rescale: float = 0.0  # 0..1, Lin et al. 2023, section 3.4
    clip_skip: int = 0  # text layers left out at the end
    vae_tiling: bool = False  # decode large pictures in overlapping tiles
    device_axis: Mesh | None = None  # the parameters carry flax's leading device axis over this mesh


def initial_latents(key_b: Key[Array, " b"], shape_chw: tuple[int, int, int]) -> Float[Array, "b h w c"]:
    """Unit normal latents, a row a key: what a batch of one of the diffusers Flax pipeline draws from it.

    Drawn in the order of channels first, and so independent of the batch that the row is in.
    """
    return jax.vmap(lambda key: _chw_normal(key, (1, *shape_chw))[0])(key_b)


def batch_latents(key: Key[Array, ""], batch: int, shape_chw: tuple[int, int, int]) -> Float[Array, "b h w c"]:
    """Unit normal latents, one key for all rows: what the diffusers Flax pipeline draws on a device."""
    return _chw_normal(key, (batch, *shape_chw))


def _chw_normal(key: Key[Array, ""], shape_bchw: tuple[int, ...]) -> Float[Array, "b h w c"]:
    return jax.random.normal(key, shape_bchw, jnp.float32).transpose(0, 2, 3, 1)


def sampler_keys(key_b: Key[Array, " b"]) -> Key[Array, " b"]:
    """The keys from which a stochastic sampler draws, given the keys of the pictures."""
    return jax.vmap(lambda key: jax.random.fold_in(key, SAMPLER_NOISE))(key_b)


STATIC = ("networks", "sampler", "settings")


@partial(ToldJit, static_argnames=STATIC)
def generate(
    params: Params,
    ids_bs: Int[Array, "b s"],
    negative_ids_bs: Int[Array, "b s"],
    latents_bhwc: Float[Array, "b h w c"],
    noise_key_b: Key[Array, " b"],
    guidance_scale_b: Float[Array, " b"],
    *,
    networks: Networks,
    sampler: Sampler,
    settings: Settings,
) -> Float[Array, "b H W c"]:
    """Pictures in 0..1 from unit normal latents: torch StableDiffusionPipeline's numbers for the same latents.

    `params` has the trees of `text_encoder`, `unet` and `vae`. Rows never meet, so their sharding is kept.
    """
    how: Any = {"networks": networks, "sampler": sampler, "settings": settings}
    context, state = _begin(params, ids_bs, negative_ids_bs, latents_bhwc, **how)
    calls = jnp.asarray(np.array(sampler.calls, np.int32))
    return _finish(params, _advance(params, context, state, calls, noise_key_b, guidance_scale_b, **how), **how)


def generate_by_calls(
    params: Params,
    ids_bs: Int[Array, "b s"],
    negative_ids_bs: Int[Array, "b s"],
    latents_bhwc: Float[Array, "b h w c"],
    noise_key_b: Key[Array, " b"],
    guidance_scale_b: Float[Array, " b"],
    *,
    networks: Networks,
    sampler: Sampler,
    settings: Settings,
    on_call: Callable[[], Any],
) -> Float[Array, "b H W c"]:
    """`generate` with a word after each call of the network, for a progress bar; the device waits for nothing.

    Three compiled programs instead of one that calls back: those that do are left out of JAX's compilation cache.
    """
    how: Any = {"networks": networks, "sampler": sampler, "settings": settings}
    context, state = begin(params, ids_bs, negative_ids_bs, latents_bhwc, **how)
    for call in sampler.calls:
        before = state
        state = step(params, context, state, np.array([call], np.int32), noise_key_b, guidance_scale_b, **how)
        jax.block_until_ready(before.x)  # so the bar is never more than a call ahead
        on_call()
    return finish(params, state, **how)


def _begin(
    params: Params,
    ids: Array,
    negative_ids: Array,
    latents: Array,
    *,
    networks: Networks,
    sampler: Any,
    settings: Settings,
) -> tuple[Array, Any]:
    """Text states, and the sampler's first state."""
    params = _own_axes(params, settings)
    return _context(params, ids, negative_ids, networks, settings), sampler.init(latents * sampler.init_noise_sigma)


def _advance(
    params: Params,
    context: Array,
    state: Any,
    calls: Array,
    noise_key_b: Array,
    guidance_scale_b: Array,
    *,
    networks: Networks,
    sampler: Sampler,
    settings: Settings,
) -> Any:
    """The sampler's state after these calls."""
    params = _own_axes(params, settings)

    def denoise(x_bhwc: Array, t: Array, index: Array) -> Array:
        rows = _twice(x_bhwc) if settings.guided else x_bhwc
        out = networks.unet(params["unet"], rows, jnp.broadcast_to(t, rows.shape[:1]), context)
        out = out.astype(jnp.float32)
        if not settings.guided:
            return out
        pairs = out.reshape(-1, 2, *out.shape[1:])
        return guide(pairs[:, 0], pairs[:, 1], guidance_scale_b, settings.guidance_rescale)

    return advance(sampler, denoise, state, calls, noise_key_b)


def _finish(params: Params, state: Any, *, networks: Networks, sampler: Sampler, settings: Settings) -> Array:
    """Pixels in 0..1 of the sampler's last state."""
    params, vae = _own_axes(params, settings), networks.vae.config
    z_bhwc = sampler.x(state) / vae.scaling_factor + (vae.shift_factor or 0.0)
    decode = "decode_tiled" if settings.vae_tiling else "decode"
    pixels_bHWc = networks.vae(params["vae"], z_bhwc, method=decode).astype(jnp.float32)
    return jnp.clip(pixels_bHWc / 2 + 0.5, 0.0, 1.0)


begin, step, finish = (ToldJit(stage, static_argnames=STATIC) for stage in (_begin, _advance, _finish))


def _own_axes(params: Params, settings: Settings) -> Params:
    return params if settings.device_axis is None else drop_device_axis(params, settings.device_axis)


def _context(params: Params, ids: Array, negative_ids: Array, networks: Networks, settings: Settings) -> Array:
    """Text states of each row; with guidance 2b rows, negative and positive by turns.

    By turns, not negatives first: so the two rows of a picture stay on the device that holds it.
    """
    if settings.guided:
        ids = jnp.stack([negative_ids, ids], axis=1).reshape(-1, ids.shape[-1])
    layer = -1 - settings.clip_skip
    text = networks.text_encoder(params["text_encoder"], ids, output_layer=layer, final_norm=True)
    return text.states_bsd


def _twice(x_bhwc: Array) -> Array:
    """Each row two times in a row: [2b, h, w, c]."""
    return jnp.stack([x_bhwc, x_bhwc], axis=1).reshape(-1, *x_bhwc.shape[1:])
