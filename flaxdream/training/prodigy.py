"""Prodigy, which finds its own step size (Mishchenko and Defazio 2023): optax's, held to the authors' prodigyopt."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from flaxdream.arrays import Array, Float, Int, Params
from flaxdream.training.adam import bias_correction


def prodigy(
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    prodigy_beta3: float | None = None,
    prodigy_decouple: bool = True,
    prodigy_use_bias_correction: bool = True,
    prodigy_safeguard_warmup: bool = True,
    prodigy_d0: float = 1e-6,
    prodigy_d_coef: float = 1.0,
) -> Callable[[Float[Array, ""]], optax.GradientTransformation]:
    """Prodigy at a learning rate, of which 1 is the usual one; its flags are diffusers'. Twin: prodigyopt.Prodigy.

    A step at learning rate 0 (the first of a warm-up) and one before any gradient differs from 0 do nothing at
    all. In optax the second, and the first without safeguard_warmup, turn all parameters into NaN.
    """

    def at(learning_rate: Float[Array, ""]) -> optax.GradientTransformation:
        def inner(count: Int[Array, ""]) -> optax.GradientTransformationExtraArgs:
            return optax.contrib.prodigy(
                learning_rate * _correction(count, beta1, beta2, prodigy_use_bias_correction),
                betas=(beta1, beta2),
                beta3=prodigy_beta3,
                eps=eps,
                estim_lr0=prodigy_d0,
                estim_lr_coef=prodigy_d_coef,
                weight_decay=weight_decay if prodigy_decouple else 0.0,
                safeguard_warmup=prodigy_safeguard_warmup,
            )

        def init(params: Params) -> optax.OptState:
            # A copy, because optax keeps the parameters themselves, and one buffer cannot be donated twice.
            return inner(jnp.zeros((), jnp.int32)).init(jax.tree.map(jnp.copy, params))

        def update(grads: Params, state: optax.OptState, params: Params | None = None) -> tuple[Params, optax.OptState]:
            assert params is not None
            if weight_decay and not prodigy_decouple:
                grads = jax.tree.map(lambda g, p: g + weight_decay * p, grads, params)
            updates, after = inner(state.count).update(grads, state, params)
            denominator = sum(jnp.sum(jnp.abs(s)) for s in jax.tree.leaves(after.grad_sum))
            moves = (learning_rate > 0) & (denominator != 0)
            updates = jax.tree.map(lambda u: jnp.where(moves, u, 0), updates)
            return updates, jax.tree.map(lambda new, old: jnp.where(moves, new, old), after, state)

        return optax.GradientTransformation(init, update)

    return at


def _correction(count: Int[Array, ""], beta1: float, beta2: float, wanted: bool) -> Float[Array, ""]:
    """Adam's bias correction, or 1, divided by that which optax multiplies with (inexact in the first steps)."""
    step = count + 1
    theirs = (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    return (jnp.sqrt(bias_correction(beta2, step)) / bias_correction(beta1, step) if wanted else 1.0) / theirs
