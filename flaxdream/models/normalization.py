"""Group and layer normalization: statistics in float32, two-pass variance as torch computes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Float


def group_norm(
    x_bhwc: Float[Array, "b *space c"],
    scale_c: Float[Array, "c"],
    bias_c: Float[Array, "c"],
    groups: int,
    eps: float,
) -> Float[Array, "b *space c"]:
    """Normalized over space and the channels of each group, then scaled and shifted, as torch.nn.GroupNorm."""
    b, c = x_bhwc.shape[0], x_bhwc.shape[-1]
    x_bpgc = x_bhwc.astype(jnp.float32).reshape(b, -1, groups, c // groups)
    mean_b1g1 = x_bpgc.mean((1, 3), keepdims=True)
    centred = x_bpgc - mean_b1g1
    variance_b1g1 = jnp.square(centred).mean((1, 3), keepdims=True)
    y_bpc = (centred * jax.lax.rsqrt(variance_b1g1 + eps)).reshape(b, -1, c)
    y_bpc = y_bpc * scale_c.astype(jnp.float32)[None, None] + bias_c.astype(jnp.float32)[None, None]
    return y_bpc.astype(x_bhwc.dtype).reshape(x_bhwc.shape)


def layer_norm(
    x: Float[Array, "*rows d"], scale_d: Float[Array, "d"], bias_d: Float[Array, "d"], eps: float
) -> Float[Array, "*rows d"]:
    """Normalized over the last axis, then scaled and shifted, as torch.nn.LayerNorm."""
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    ones = (1,) * (x.ndim - 1)
    y = normal * scale_d.astype(jnp.float32).reshape(*ones, -1) + bias_d.astype(jnp.float32).reshape(
        *ones, -1
    )
    return y.astype(x.dtype)
