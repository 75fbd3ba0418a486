"""Matrix products and broadcasts whose gradients are fast on every platform.

The values are those of the plain expressions; their backward passes are written out, since those of autodiff run at a
fraction of a CPU's speed.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from flaxdream.arrays import Array, Float


@jax.custom_vjp
def linear(x: Float[Array, "*rows i"], kernel_io: Float[Array, "i o"]) -> Float[Array, "*rows o"]:
    """The matrix product x @ kernel."""
    return jnp.dot(x, kernel_io)


def _linear_forward(x: Array, kernel_io: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.dot(x, kernel_io), (x, kernel_io)


def _linear_backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel_io = kept
    dx = lax.dot_general(dy, kernel_io, (((dy.ndim - 1,), (1,)), ((), ())))
    return dx, product_over_rows(x, dy)


linear.defvjp(_linear_forward, _linear_backward)


def product_over_rows(x: Float[Array, "*rows i"], y: Float[Array, "*rows o"]) -> Float[Array, "i o"]:
    """x^T y, where all axes but the last count as rows: the gradient of a linear layer's kernel.

    Autodiff would write (y^T x)^T over several axes of rows. XLA's CPU compiler takes that at its word and moves whole
    arrays: 1.3 to 5 times slower.
    """
    return lax.dot_general(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), (((0,), (0,)), ((), ())))


@jax.custom_vjp
def add_vector(x: Float[Array, "*rows c"], vector: Float[Array, " c"] | Float[Array, "b c"]) -> Float[Array, "*rows c"]:
    """`x` with a vector added to its last axis: one for all rows, or one for each index of the first axis."""
    return x + _spread(vector, x.ndim)


def _add_forward(x: Array, vector: Array) -> tuple[Array, Array]:
    return x + _spread(vector, x.ndim), vector


def _add_backward(vector: Array, dy: Array) -> tuple[Array, Array]:
    return dy, sum_over_rows(dy, by_first_axis=vector.ndim == 2).astype(vector.dtype)


add_vector.defvjp(_add_forward, _add_backward)


def _spread(vector: Array, ndim: int) -> Array:
    if vector.ndim == 1:
        return vector.reshape((1,) * (ndim - 1) + (-1,))
    return vector.reshape(vector.shape[:1] + (1,) * (ndim - 2) + vector.shape[1:])


def sum_over_rows(
    x: Float[Array, "*rows c"], *, by_first_axis: bool = False
) -> Float[Array, " c"] | Float[Array, "b c"]:
    """`x` summed over all axes but the last, or over all but the first and the last."""
    keep = 1 if by_first_axis else 0
    x = x.reshape(*x.shape[:keep], math.prod(x.shape[keep:-1]), x.shape[-1])
    return lax.platform_dependent(x, cpu=_sum_by_product, default=lambda x: x.sum(-2))


def _sum_by_product(x: Array) -> Array:
    """A product with ones, which keeps XLA from fusing what computes `x` into a sum that strides through memory."""
    if x.dtype != jnp.float32:
        return x.sum(-2)
    if x.ndim == 2:
        return jnp.ones(x.shape[0], x.dtype) @ x
    return lax.dot_general(jnp.ones(x.shape[:2], x.dtype), x, (((1,), (1,)), ((0,), (0,))))
