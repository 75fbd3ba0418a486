"""Adam's two moments in float32, as torch.optim computes them."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxdream.arrays import Array, Float, Int, Params


class AdamState(NamedTuple):
    steps: Int[Array, ""]  # updates so far
    m: Params  # mean of the gradients
    v: Params  # mean of their squares


def scale_by_adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """The direction m_hat / (sqrt(v_hat) + eps) of Kingma and Ba 2015. Twin: torch.optim.Adam at lr -1.

    optax.scale_by_adam takes 1 - beta2^t in float32, which is off by 1e-5 in the first steps.
    """

    def init(params: Params) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(grads: Params, state: AdamState, params: Params | None = None) -> tuple[Params, AdamState]:
        count = state.steps + 1
        m = jax.tree.map(lambda m, g: moment(m, g, beta1), state.m, grads)
        v = jax.tree.map(lambda v, g: moment(v, g * g, beta2), state.v, grads)
        direction = jax.tree.map(lambda m, v: adam_direction(m, v, count, beta1, beta2, eps), m, v)
        return direction, AdamState(count, m, v)

    return optax.GradientTransformation(init, update)


class SecondMomentState(NamedTuple):
    steps: Int[Array, ""]
    v: Params


def scale_by_second_moment(beta2: float, eps: float) -> optax.GradientTransformation:
    """g / (sqrt(v_hat) + eps): Adam at beta1 = 0, without the memory for m."""

    def init(params: Params) -> SecondMomentState:
        return SecondMomentState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: Params, state: SecondMomentState, params: Params | None = None
    ) -> tuple[Params, SecondMomentState]:
        count = state.steps + 1
        v = jax.tree.map(lambda v, g: moment(v, g * g, beta2), state.v, grads)
        direction = jax.tree.map(lambda g, v: adam_direction(g, v, count, 0.0, beta2, eps), grads, v)
        return direction, SecondMomentState(count, v)

    return optax.GradientTransformation(init, update)


def moment(mean: Float[Array, "*shape"], x: Float[Array, "*shape"], beta: float) -> Float[Array, "*shape"]:
    """The exponential moving average after one more `x`."""
    return beta * mean + (1 - beta) * x


def adam_direction(
    m: Float[Array, "*shape"], v: Float[Array, "*shape"], count: Int[Array, ""], beta1: float, beta2: float, eps: float
) -> Float[Array, "*shape"]:
    """m_hat / (sqrt(v_hat) + eps), both moments freed of their start at zero; count is 1 at the first step."""
    root = jnp.sqrt(v) / jnp.sqrt(bias_correction(beta2, count))
    return m / bias_correction(beta1, count) / (root + eps)


def bias_correction(beta: float, count: Int[Array, ""]) -> Float[Array, ""]:
    """1 - beta^count, exact to float32 also where beta^count is close to 1."""
    if beta == 0:
        return jnp.ones((), jnp.float32)
    return -jnp.expm1(count.astype(jnp.float32) * jnp.float32(math.log(beta)))
