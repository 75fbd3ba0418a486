"""Noise of several resolutions, which teaches large shapes and brightness (Whitaker 2023, "Multi-Resolution Noise")."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Float, Key

SHRINK = (2.0, 4.0)  # a level's side is that of the sample over r^level, r drawn from here


def multires_noise(
    eps: Float[Array, "b h w c"], key_b: Key[Array, " b"], iterations: int, discount: float
) -> Float[Array, "b h w c"]:
    """eps plus coarser and coarser noise, each level weighted by discount^level, divided by the row's deviation.

    Twin: kohya's `pyramid_noise_like` (`--multires_noise_iterations`, `--multires_noise_discount`), with r and the
    deviation of each row instead of the batch: a row does not depend on its neighbours. Levels below one that is a
    single cell wide or high are left out, as there.
    """
    if iterations == 0:
        return eps

    def one(eps: Array, key: Array) -> Array:
        height, width, _ = eps.shape
        total, more = eps, jnp.float32(1)
        for level in range(iterations):
            at = jax.random.fold_in(key, level)
            shrink = jax.random.uniform(jax.random.fold_in(at, 0), (), jnp.float32, *SHRINK) ** level
            cells = [jnp.maximum(1, jnp.floor(side / shrink)).astype(jnp.int32) for side in (height, width)]
            noise = jax.random.normal(jax.random.fold_in(at, 1), eps.shape, jnp.float32)
            total = total + more * discount**level * _enlarged(noise, cells[0], cells[1])
            more = more * ((cells[0] > 1) & (cells[1] > 1))
        return total / jnp.std(total, ddof=1)

    return jax.vmap(one)(eps, key_b)


def _enlarged(noise: Float[Array, "h w c"], rows: Array, columns: Array) -> Float[Array, "h w c"]:
    """The first `rows` x `columns` cells, enlarged to the whole. Twin: torch's bilinear Upsample."""
    height, width, _ = noise.shape
    return jnp.einsum("hi,wj,ijc->hwc", _weights(height, rows), _weights(width, columns), noise)


def _weights(side: int, cells: Array) -> Float[Array, "side side"]:
    """What each of the first `cells` cells counts in each of `side` pixels."""
    place = jnp.clip((jnp.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
    distance = jnp.abs(place[:, None] - jnp.arange(side)[None, :])
    return jnp.where(jnp.arange(side)[None, :] < cells, jnp.maximum(0, 1 - distance), 0)
