"""The denoising loss of latent diffusion, shared by every recipe that trains a UNet.

Rows bring `pixels` (live) or `mean` and `logvar` (cached moments), and for text `context` (states), `ids` (tokens) or
`caption_index`, for which the frozen tree brings `ids` of all captions or `context` (their states). All ways give the
same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdream.arrays import Array, Float, Key, Params
from flaxdream.compiler_options import ToldJit
from flaxdream.diffusion.loss import (
    debiased_weight,
    huber_threshold,
    loss_per_row,
    min_snr_weight,
    offset_noise,
    perturbed_noise,
    row_noise,
)
from flaxdream.diffusion.multires_noise import multires_noise
from flaxdream.diffusion.process import add_noise, check_prediction_type, dream, eps_from_output, target
from flaxdream.diffusion.schedule import alpha_bar_from_config
from flaxdream.diffusion.timesteps import TimestepSampling, timesteps
from flaxdream.models.network import Network
from flaxdream.models.own_rows import one_by_one, sharers
from flaxdream.training.step import Batch, LossOfRows

# What a row's key is folded with: each draw has an address of its own.
LATENT, NOISE, TIMESTEP, OFFSET, PERTURBATION, MULTIRES = range(6)


@dataclass(frozen=True)
class Objective:
    """What the loss is made of; the names are the flags'."""

    prediction_type: str = "epsilon"
    snr_gamma: float | None = None
    debiased_estimation_loss: bool = False
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    loss_type: str = "l2"
    huber_c: float = 0.1
    huber_schedule: str = "snr"
    multires_noise_iterations: int = 0
    multires_noise_discount: float = 0.3
    dream_detail_preservation: float | None = None  # None: no DREAM
    timesteps: TimestepSampling = field(default_factory=TimestepSampling)

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)


def draws(key_b: Key[Array, " b"], purpose: int) -> Key[Array, " b"]:
    """The keys of the rows for one purpose."""
    return jax.vmap(jax.random.fold_in, (0, None))(key_b, purpose)


def make_loss_of_rows(
    unet: Network,
    vae: Network,
    text_encoder: Network,
    scheduler: Mapping[str, Any],
    objective: Objective,
    *,
    vae_slicing: bool = False,
) -> LossOfRows:
    """The loss for `make_train_step`: trees are `unet`, `text_encoder` and `vae`, each trained or frozen.

    With `vae_slicing` live pictures are encoded one by one.
    """
    alpha_bar_T = alpha_bar_from_config(scheduler)

    def loss_of_rows(trained: Params, frozen: Params, rows: Batch, key_b: Array) -> Float[Array, " b"]:
        params = {**frozen, **trained}
        x0 = _latents(params, rows, draws(key_b, LATENT), vae, slicing=vae_slicing)
        t_b = timesteps(draws(key_b, TIMESTEP), len(alpha_bar_T), objective.timesteps)
        alpha_bar_b = jnp.asarray(alpha_bar_T)[t_b]
        eps = row_noise(draws(key_b, NOISE), x0.shape[1:])
        eps = offset_noise(eps, draws(key_b, OFFSET), objective.noise_offset)
        eps = multires_noise(
            eps, draws(key_b, MULTIRES), objective.multires_noise_iterations, objective.multires_noise_discount
        )
        mixed = perturbed_noise(eps, draws(key_b, PERTURBATION), objective.input_perturbation)
        x_t, context = add_noise(x0, mixed, alpha_bar_b), _context(params, rows, text_encoder)
        if objective.dream_detail_preservation is not None:
            guess = unet(params["unet"], x_t, t_b, context)
            found = jax.lax.stop_gradient(eps_from_output(objective.prediction_type, x_t, guess, alpha_bar_b))
            x_t, eps = dream(x_t, eps, found, alpha_bar_b, objective.dream_detail_preservation)
        out = unet(params["unet"], x_t, t_b, context)
        wanted = target(objective.prediction_type, x0, eps, alpha_bar_b)
        return _weighted(objective, out, wanted, alpha_bar_b, t_b, len(alpha_bar_T))

    return loss_of_rows


def _latents(params: Params, rows: Batch, key_b: Array, vae: Network, *, slicing: bool) -> Float[Array, "b h w c"]:
    """A draw from the latent distribution of each row, scaled for the UNet, float32."""
    if "mean" in rows:
        mean, logvar = rows["mean"], rows["logvar"]
    else:
        encode = partial(vae, method="moments")
        given = params["vae"], rows["pixels"]
        mean, logvar = jax.lax.stop_gradient(one_by_one(encode, *given) if slicing else encode(*given))
    z = mean + jnp.exp(0.5 * logvar) * row_noise(key_b, mean.shape[1:])
    return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def _context(params: Params, rows: Batch, text_encoder: Network) -> Float[Array, "b s d"]:
    if "context" in rows:
        return rows["context"]
    if "context" in params:
        return params["context"][rows["caption_index"]]
    encode = partial(text_encoder, params["text_encoder"])
    if "ids" in rows:
        return encode(rows["ids"]).states_bsd
    index_b, ids = rows["caption_index"], params["ids"]
    if len(ids) < len(index_b) / sharers():  # DreamBooth has one caption or two, and many rows that share them
        return encode(ids).states_bsd[index_b]
    return encode(ids[index_b]).states_bsd


def _weighted(
    objective: Objective, out: Array, wanted: Array, alpha_bar_b: Array, t_b: Array, length: int
) -> Float[Array, " b"]:
    huber_b = None
    if objective.loss_type in ("huber", "smooth_l1"):
        huber_b = huber_threshold(objective.huber_schedule, objective.huber_c, alpha_bar_b, t_b, length)
    loss_b = loss_per_row(out, wanted, objective.loss_type, huber_b)
    if objective.snr_gamma is not None:
        loss_b = loss_b * min_snr_weight(alpha_bar_b, objective.snr_gamma, objective.prediction_type)
    if objective.debiased_estimation_loss:
        loss_b = loss_b * debiased_weight(alpha_bar_b, objective.prediction_type)
    return loss_b


@partial(ToldJit, static_argnums=0)
def encode_pictures(vae: Network, params: Params, pixels_bHWc: np.ndarray | Array) -> tuple[Array, Array]:
    """Mean and log variance of pictures in -1..1: what live rows compute in every step, computed once."""
    return vae(params, pixels_bHWc, method="moments")


@partial(ToldJit, static_argnums=0)
def encode_captions(text_encoder: Network, params: Params, ids_bs: np.ndarray) -> Array:
    """Text states of all captions: what live rows compute in every step, computed once."""
    return text_encoder(params, ids_bs).states_bsd
