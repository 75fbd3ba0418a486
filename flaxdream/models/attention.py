"""Scaled dot-product attention: one function for every attention layer, several kernels behind it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Float

IMPLEMENTATIONS = ("auto", "xla", "chunked", "cudnn", "flash")


def attention(
    q_blnk: Float[Array, "b l n k"],
    k_bsnk: Float[Array, "b s n k"],
    v_bsnk: Float[Array, "b s n k"],
    *,
    scale: float | None = None,
    mask: Array | None = None,
    implementation: str = "auto",
) -> Float[Array, "b l n k"]:
    """softmax(scale * q k^T + mask) v for each head; the softmax is in float32 whatever the inputs are.

    `scale` is 1/sqrt(k) unless given. `mask` broadcasts against (b, n, l, s): boolean (True may be seen)
    or float (added to the scores).
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {implementation!r} is not known. "
            f"Choose one of: {', '.join(IMPLEMENTATIONS)}."
        )
    scale = 1 / math.sqrt(q_blnk.shape[-1]) if scale is None else scale
    return _plain(q_blnk, k_bsnk, v_bsnk, scale, mask)


def _plain(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float, mask: Array | None) -> Array:
    scores_bnls = jnp.einsum("blnk,bsnk->bnls", q_blnk, k_bsnk, preferred_element_type=jnp.float32) * scale
    if mask is not None:
        mask = jnp.broadcast_to(mask, scores_bnls.shape)
        if mask.dtype == jnp.bool_:
            scores_bnls = jnp.where(mask, scores_bnls, jnp.finfo(jnp.float32).min)
        else:
            scores_bnls = scores_bnls + mask.astype(jnp.float32)
    weights_bnls = jax.nn.softmax(scores_bnls, axis=-1).astype(v_bsnk.dtype)
    return jnp.einsum("bnls,bsnk->blnk", weights_bnls, v_bsnk)
