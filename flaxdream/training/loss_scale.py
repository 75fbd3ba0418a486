"""Dynamic loss scaling for float16, whose gradients would else vanish. Twin: torch.amp.GradScaler.

In a step: differentiate `loss * scale.value`, divide the gradients with `unscale`, run the optimizer, take its
results only if the gradients are finite (`choose`), and move the scale with `update_loss_scale`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxdream.arrays import Array, Bool, Float, Int, Params


class LossScale(NamedTuple):
    value: Float[Array, ""]
    finite_steps: Int[Array, ""]  # in a row, since the value last changed


def init_loss_scale(value: float = 65536.0) -> LossScale:
    """The scale of the first step."""
    return LossScale(jnp.float32(value), jnp.zeros((), jnp.int32))


def unscale(grads: Params, scale: LossScale) -> tuple[Params, Bool[Array, ""]]:
    """The gradients of the unscaled loss in float32, and whether every one of them is finite."""
    grads = jax.tree.map(lambda g: g.astype(jnp.float32) * (1 / scale.value), grads)
    finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)])
    return grads, finite.all()


def choose(finite: Bool[Array, ""], stepped: Any, unstepped: Any) -> Any:
    """`stepped` if the gradients were finite, else `unstepped`, leaf by leaf.

    It belongs around parameters and optimizer state, step counter included: a skipped step takes none of the
    learning rate schedule. The average of the parameters does take it, as in diffusers' scripts.
    """
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), stepped, unstepped)


def update_loss_scale(
    scale: LossScale,
    finite: Bool[Array, ""],
    *,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
) -> LossScale:
    """Half the scale after gradients that are not finite, twice the scale after 2000 finite steps in a row."""
    finite_steps = jnp.where(finite, scale.finite_steps + 1, 0)
    grows = finite_steps >= growth_interval
    grown = scale.value * growth_factor
    value = jnp.where(grows & jnp.isfinite(grown), grown, scale.value)
    return LossScale(
        jnp.where(finite, value, scale.value * backoff_factor), jnp.where(grows, 0, finite_steps).astype(jnp.int32)
    )
