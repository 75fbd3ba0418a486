"""Timesteps and other numbers as vectors."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxdream.arrays import Array, Float, Shaped
from flaxdream.models.layers import ACTIVATIONS, Compute, Linear


def timestep_embedding(
    t_b: Shaped[Array, " b"], width: int, *, flip_sin_to_cos: bool, freq_shift: float
) -> Float[Array, "b d"]:
    """Sines and cosines of t at `width`/2 frequencies from 1 down to 1/10000, in float32.

    `flip_sin_to_cos` puts the cosines first. With `freq_shift` 1 the last frequency is 1/10000 exactly.
    """
    half = width // 2
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32)
    exponent = exponent / np.float32(half - freq_shift)
    # Rounded once: at t = 999 an error of one unit in the last place of a frequency is 6e-5 in the angle.
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle_bd = t_b.astype(jnp.float32)[:, None] * jnp.asarray(frequencies)[None]
    parts = [jnp.cos(angle_bd), jnp.sin(angle_bd)] if flip_sin_to_cos else [jnp.sin(angle_bd), jnp.cos(angle_bd)]
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, width % 2)))


class TimestepEmbedding(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width_in: int, width: int, compute: Compute, *, act_fn: str = "silu"):
        self.linear_1 = Linear(width_in, width, compute)
        self.linear_2 = Linear(width, width, compute)
        self.act_fn = act_fn

    def __call__(self, x_bd: Float[Array, "b i"]) -> Float[Array, "b d"]:
        return self.linear_2(ACTIVATIONS[self.act_fn](self.linear_1(x_bd)))
