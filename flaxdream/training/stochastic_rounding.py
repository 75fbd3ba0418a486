"""Rounding up or down at random, so that the mean is exact: what lets low precision follow small changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Float, Int, Shaped


def random_bits(shape: tuple[int, ...], step: Int[Array, ""], stream: int) -> Shaped[Array, "*shape"]:
    """32 random bits for each element, a function of nothing but (step, stream, the element's index).

    A multiply-and-shift hash (Wellons' lowbias32) and not jax.random: rounding asks for little randomness, for
    every parameter at every step, and Threefry would cost several times the optimizer itself. It is made of
    iotas, so that each device computes its own shard, and any sharding gives the same bits.
    """
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
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


def _hash(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    x ^= x >> 16
    x *= jnp.uint32(0x7FEB352D)
    x ^= x >> 15
    x *= jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
