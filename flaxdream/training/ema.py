"""The exponential moving average of the parameters, as diffusers' EMAModel keeps it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxdream.arrays import Array, Float, Int, Params
from flaxdream.training.stochastic_rounding import random_bits, to_bfloat16


class EmaState(NamedTuple):
    steps: Int[Array, ""]  # updates so far
    params: Params


def init_ema(params: Params, dtype: DTypeLike = jnp.float32) -> EmaState:
    """A copy of the parameters; as bfloat16 it takes half the memory, and updates round stochastically."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"an average in {jnp.dtype(dtype)} is not supported. Supported: float32, bfloat16.")
    return EmaState(jnp.zeros((), jnp.int32), jax.tree.map(lambda p: jnp.array(p, dtype, copy=True), params))


def update_ema(
    state: EmaState,
    params: Params,
    *,
    decay: float = 0.9999,
    min_decay: float = 0.0,
    update_after_step: int = 0,
    use_ema_warmup: bool = False,
    inv_gamma: float = 1.0,
    power: float = 2 / 3,
) -> EmaState:
    """The average after one more optimizer step. Twin: diffusers' EMAModel.step.

    Up to and including step update_after_step + 1 the average is a copy. With n the steps since, decay is
    (1 + n) / (10 + n), or 1 - (1 + n / inv_gamma)^-power if use_ema_warmup is set, between min_decay and
    `decay`; without use_ema_warmup there is a warm-up all the same.
    """
    count = state.steps + 1
    n = jnp.maximum(count - update_after_step - 1, 0).astype(jnp.float32)
    # What is new counts 1 - decay, computed as such: decay itself is too close to 1 for float32.
    share = jnp.exp(-power * jnp.log1p(n / inv_gamma)) if use_ema_warmup else 9 / (10 + n)
    share = jnp.minimum(jnp.maximum(share, 1 - decay), 1 - min_decay)
    share = jnp.where(n > 0, share, 1.0)

    leaves, tree = jax.tree.flatten(params)
    means = [
        _updated(mean, p, share, count, stream)
        for stream, (mean, p) in enumerate(zip(jax.tree.leaves(state.params), leaves, strict=True))
    ]
    return EmaState(count, jax.tree.unflatten(tree, means))


def _updated(
    mean: Float[Array, "*shape"], p: Float[Array, "*shape"], share: Float[Array, ""], count: Int[Array, ""], stream: int
) -> Float[Array, "*shape"]:
    exact = mean.astype(jnp.float32)
    exact = exact - share * (exact - p.astype(jnp.float32))
    if mean.dtype == jnp.float32:
        return exact
    return to_bfloat16(exact, random_bits(mean.shape, count, stream))
