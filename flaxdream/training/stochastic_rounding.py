"""Rounding up or down at random, so that the mean is exact: what lets low precision follow small changes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Float, Int, Params, Shaped

# Streams of `random_bits`, one for each leaf from the number on. The moving average and 8-bit Adam count theirs from 0.
OF_PARAMS = 1 << 20


def random_bits(
    shape: tuple[int, ...], step: Int[Array, ""], stream: int, columns: tuple[Any, int] | None = None
) -> Shaped[Array, "*shape"]:
    """32 random bits for each element, a function of nothing but (step, stream, the element's index).

    `columns` are the first and the number of those wanted along the last axis, instead of all.

    A multiply-and-shift hash (Wellons' lowbias32) and not jax.random: rounding asks for little randomness, for
    every parameter at every step, and Threefry would cost several times the optimizer itself. It is made of
    iotas, so that each device computes its own shard, and any sharding gives the same bits.
    """
    start, width = columns or (0, shape[-1])
    wanted = (*shape[:-1], width)
    index = jnp.full(wanted, start, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, wanted, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    seed = _hash(step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9) + jnp.uint32(stream))
    return _hash(index ^ seed)


def to_bfloat16(x: Float[Array, "*shape"], bits: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """float32 `x` as bfloat16, up or down with the probability that keeps the mean; 16 of the bits are used.

    What is already a bfloat16 stays. NaN and infinity stay too.
    """
    raw = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    rounded = (raw + (bits & jnp.uint32(0xFFFF))) & jnp.uint32(0xFFFF0000)
    rounded = jnp.where(jnp.isfinite(x), rounded, raw)
    return jax.lax.bitcast_convert_type(rounded, jnp.float32).astype(jnp.bfloat16)


def apply_updates(params: Params, updates: Params, step: Int[Array, ""]) -> Params:
    """The parameters after float32 `updates`, each in its type; bfloat16 ones are rounded at random, others to nearest.

    A step of a fine-tuning is often a hundredth of the distance between two bfloat16 numbers: to the nearest one,
    nothing would move. `step` counts the updates.
    """
    leaves, tree = jax.tree.flatten(params)
    moved = [
        _moved(p, update, step, OF_PARAMS + number)
        for number, (p, update) in enumerate(zip(leaves, jax.tree.leaves(updates), strict=True))
    ]
    return jax.tree.unflatten(tree, moved)


def _moved(
    p: Float[Array, "*shape"], update: Float[Array, "*shape"], step: Int[Array, ""], stream: int
) -> Float[Array, "*shape"]:
    if p.dtype != jnp.bfloat16:
        return (p + update).astype(p.dtype)
    return to_bfloat16(p.astype(jnp.float32) + update, random_bits(p.shape, step, stream))


def _hash(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    x ^= x >> 16
    x *= jnp.uint32(0x7FEB352D)
    x ^= x >> 15
    x *= jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
