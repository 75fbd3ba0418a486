"""Group and layer normalization: statistics in float32, two-pass variance as torch computes it.

Both have written backward passes: they keep the input and a few statistics instead of several arrays of its size, and
they sum along whole channels, never inside a group, whose few channels no machine likes as an innermost axis.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from flaxdream.arrays import Array, Float
from flaxdream.models.products import sum_over_rows

Kept = tuple[Array, Array, Array, Array, Array]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
    x_bhwc: Float[Array, "b *space c"],
    scale_c: Float[Array, " c"],
    bias_c: Float[Array, " c"],
    groups: int,
    eps: float,
) -> Float[Array, "b *space c"]:
    """Normalized over space and each group's channels, then scaled and shifted, as torch.nn.GroupNorm."""
    return _group_forward(x_bhwc, scale_c, bias_c, groups, eps)[0]


def _group_forward(x_bhwc: Array, scale_c: Array, bias_c: Array, groups: int, eps: float) -> tuple[Array, Kept]:
    x32, space = x_bhwc.astype(jnp.float32), _space(x_bhwc)
    mean = _as_pixels(_group_mean(x32.mean(space), groups), x32)
    variance = _as_pixels(_group_mean(jnp.square(x32 - mean).mean(space), groups), x32)
    root = lax.rsqrt(variance + eps)
    y = (x32 - mean) * (root * _row(scale_c, x32.ndim)) + _row(bias_c, x32.ndim)
    return y.astype(x_bhwc.dtype), (x_bhwc, scale_c, bias_c, mean, root)


def _group_backward(groups: int, eps: float, kept: Kept, dy_bhwc: Array) -> tuple[Array, Array, Array]:
    x_bhwc, scale_c, bias_c, mean, root = kept
    dy, space = dy_bhwc.astype(jnp.float32), _space(x_bhwc)
    normal = (x_bhwc.astype(jnp.float32) - mean) * root
    pixels = math.prod(x_bhwc.shape[1:-1])
    dbias_bc, dscale_bc = dy.sum(space), (dy * normal).sum(space)
    mean_dy = _as_pixels(_group_mean(dbias_bc * _row(scale_c, 2), groups), dy) / pixels
    slope = _as_pixels(_group_mean(dscale_bc * _row(scale_c, 2), groups), dy) / pixels
    dx = root * (dy * _row(scale_c, dy.ndim) - mean_dy - normal * slope)
    dscale_c, dbias_c = sum_over_rows(dscale_bc), sum_over_rows(dbias_bc)
    return dx.astype(x_bhwc.dtype), dscale_c.astype(scale_c.dtype), dbias_c.astype(bias_c.dtype)


group_norm.defvjp(_group_forward, _group_backward)


def _space(x: Array) -> tuple[int, ...]:
    """The axes between rows and channels. Flattened to one, they would cost TPUs a copy in another layout."""
    return tuple(range(1, x.ndim - 1))


def _as_pixels(x_bc: Array, like: Array) -> Array:
    return lax.expand_dims(x_bc, _space(like))


def _group_mean(x_bc: Array, groups: int) -> Array:
    """Each channel's value replaced by the mean over its group."""
    size, rest = divmod(x_bc.shape[1], groups)
    if rest:
        raise ValueError(
            f"{x_bc.shape[1]} channels cannot be cut into {groups} groups: give a divisor of the channels."
        )

    def by_repetition(x_bc: Array) -> Array:
        return jnp.repeat(x_bc.reshape(-1, groups, size).mean(-1), size, axis=1)

    def by_products(x_bc: Array) -> Array:
        """A product ends a fusion on a CPU; a repetition would be repeated, division and all, for every pixel."""
        member_cg = (jnp.arange(groups * size)[:, None] // size == jnp.arange(groups)[None]).astype(x_bc.dtype)
        return lax.dot_general(x_bc @ member_cg / size, member_cg, (((1,), (1,)), ((), ())))

    return lax.platform_dependent(x_bc, cpu=by_products, default=by_repetition)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*rows d"], scale_d: Float[Array, " d"], bias_d: Float[Array, " d"], eps: float
) -> Float[Array, "*rows d"]:
    """Normalized over the last axis, then scaled and shifted, as torch.nn.LayerNorm."""
    return _layer_forward(x, scale_d, bias_d, eps)[0]


def _layer_forward(x: Array, scale_d: Array, bias_d: Array, eps: float) -> tuple[Array, Kept]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    root = lax.rsqrt(jnp.square(x32 - mean).mean(-1, keepdims=True) + eps)
    y = (x32 - mean) * root * _row(scale_d, x.ndim) + _row(bias_d, x.ndim)
    return y.astype(x.dtype), (x, scale_d, bias_d, mean, root)


def _layer_backward(eps: float, kept: Kept, dy: Array) -> tuple[Array, Array, Array]:
    x, scale_d, bias_d, mean, root = kept
    dy32 = dy.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * root
    dnormal = dy32 * _row(scale_d, x.ndim)
    centred = dnormal - dnormal.mean(-1, keepdims=True)
    dx = root * (centred - normal * (dnormal * normal).mean(-1, keepdims=True))
    dscale_d, dbias_d = sum_over_rows(dy32 * normal), sum_over_rows(dy32)
    return dx.astype(x.dtype), dscale_d.astype(scale_d.dtype), dbias_d.astype(bias_d.dtype)


layer_norm.defvjp(_layer_forward, _layer_backward)


def _row(vector: Array, ndim: int) -> Array:
    return vector.astype(jnp.float32).reshape((1,) * (ndim - 1) + (-1,))
