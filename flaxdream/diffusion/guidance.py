"""Classifier-free guidance (Ho & Salimans 2022) and its rescale (Lin et al. 2023)."""

from __future__ import annotations

import jax.numpy as jnp

from flaxdream.arrays import Array, Float
from flaxdream.diffusion.process import per_row


def guide(
    uncond: Float[Array, "b ..."],
    cond: Float[Array, "b ..."],
    scale: float | Float[Array, "*b"],
    rescale: float | Float[Array, "*b"] = 0.0,
) -> Float[Array, "b ..."]:
    """uncond + scale * (cond - uncond), then `rescale` of the way to the spread of cond.

    `scale` (1 gives cond back) and `rescale` (0 to 1) may be one number, or one per row. Twins: the guidance
    of `StableDiffusionPipeline` and its `rescale_noise_cfg` (Lin et al. 2023, section 3.4), which divides
    by n - 1 in the standard deviation over each row.
    """
    guided = uncond + _weight(scale, cond) * (cond - uncond)
    if isinstance(rescale, int | float) and rescale == 0:
        return guided
    share = _weight(rescale, cond)
    rescaled = guided * (_row_std(cond) / _row_std(guided))
    return share * rescaled + (1 - share) * guided


def _weight(value: float | Array, x: Array) -> float | Array:
    return value if isinstance(value, int | float) else per_row(value, x)


def _row_std(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    return jnp.std(x, axis=tuple(range(1, x.ndim)), ddof=1, keepdims=True)
