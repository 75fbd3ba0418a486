"""Adafactor: the second moment as a row and a column (Shazeer and Stern 2018), with optax's factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxdream.arrays import Array, Float, Params
from flaxdream.training.adam import moment

SMALLEST_PARAMETER_SCALE = 1e-3


class AdafactorState(NamedTuple):
    second_moment: Any  # optax.FactoredState
    m: Params | None  # only with beta1


def adafactor(
    *,
    beta1: float | None = None,
    weight_decay: float = 0.0,
    decay_rate: float = 0.8,
    clip_threshold: float = 1.0,
    scale_parameter: bool = False,
    min_dim_size_to_factor: int = 128,
) -> Callable[[Float[Array, ""]], optax.GradientTransformation]:
    """Adafactor at a learning rate. Twin: transformers.Adafactor with relative_step=False.

    The learning rate is the schedule's (transformers calls that relative_step=False, scale_parameter=False, and
    advises it for fine-tuning). With `scale_parameter` it is multiplied by the root mean square of each tensor.
    Factored are the two longest axes if both have min_dim_size_to_factor or more; transformers factors the
    last two, which are the 3 x 3 of a convolution in its layout, and saves nothing there.
    """
    factored = optax.scale_by_factored_rms(decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor)

    def at(learning_rate: Float[Array, ""]) -> optax.GradientTransformation:
        def init(params: Params) -> AdafactorState:
            return AdafactorState(
                factored.init(params), None if beta1 is None else jax.tree.map(jnp.zeros_like, params)
            )

        def update(grads: Params, state: AdafactorState, params: Params | None = None) -> tuple[Params, AdafactorState]:
            assert params is not None
            direction, second_moment = factored.update(grads, state.second_moment, params)
            rate = jax.tree.map(lambda p: learning_rate * _scale(p) if scale_parameter else learning_rate, params)
            steps = jax.tree.map(lambda d, r: r * d / jnp.maximum(1, _rms(d) / clip_threshold), direction, rate)
            if beta1 is not None:
                steps = jax.tree.map(lambda m, s: moment(m, s, beta1), state.m, steps)
            updates = jax.tree.map(lambda s, r, p: -s - r * weight_decay * p, steps, rate, params)
            return updates, AdafactorState(second_moment, None if beta1 is None else steps)

        return optax.GradientTransformation(init, update)

    return at


def _scale(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    return jnp.maximum(_rms(x), SMALLEST_PARAMETER_SCALE)


def _rms(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
