"""The layers with parameters. Leaves are `kernel`, `scale`, `embedding` (`weight` in files) and `bias`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxdream.arrays import Array, Float, Int
from flaxdream.models import remat
from flaxdream.models.attention import IMPLEMENTATIONS
from flaxdream.models.convolution import conv2d
from flaxdream.models.normalization import group_norm, layer_norm
from flaxdream.models.products import add_vector, linear

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


@dataclass(frozen=True)
class Compute:
    """How a network computes, apart from what it computes.

    Layers compute in `dtype` and hold parameters in `param_dtype`; whatever these are, statistics of norms,
    softmax and timestep embeddings are float32. `remat` is a policy of `models.remat`, `attention` an
    implementation of `models.attention`.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        remat.check(self.remat)
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(
                f"attention implementation {self.attention!r} is not known. "
                f"Choose one of: {', '.join(IMPLEMENTATIONS)}."
            )
        for name in ("dtype", "param_dtype"):
            dtype = jnp.dtype(getattr(self, name))
            if not jnp.issubdtype(dtype, jnp.floating):
                raise ValueError(f"{name}={dtype} is not a floating point type: use float32 or bfloat16.")
            object.__setattr__(self, name, dtype)


class Linear(nnx.Module):
    """x kernel + bias over the last axis; the kernel is (in, out), torch's transposed."""

    def __init__(self, width_in: int, width_out: int, compute: Compute, *, use_bias: bool = True):
        self.kernel = _parameter((width_in, width_out), compute)
        self.bias = _parameter((width_out,), compute) if use_bias else None
        self.dtype = compute.dtype

    def __call__(self, x: Float[Array, "*rows i"], outputs: slice = slice(None)) -> Float[Array, "*rows o"]:
        """All outputs, or those of a slice; the others are then not computed."""
        y = linear(x.astype(self.dtype), self.kernel[:, outputs].astype(self.dtype))
        return y if self.bias is None else add_vector(y, self.bias[outputs].astype(self.dtype))


class Conv(nnx.Module):
    """A convolution of NHWC pictures with an HWIO kernel; `padding` as `conv2d` takes it."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        compute: Compute,
        *,
        stride: int = 1,
        padding: int | Sequence[tuple[int, int]] = 0,
    ):
        self.kernel = _parameter((size, size, channels_in, channels_out), compute)
        self.bias = _parameter((channels_out,), compute)
        self.stride, self.padding, self.dtype = stride, padding, compute.dtype

    def __call__(self, x_bhwc: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        kernel = self.kernel[...].astype(self.dtype)
        y_bhwc = conv2d(x_bhwc.astype(self.dtype), kernel, self.stride, self.padding)
        return add_vector(y_bhwc, self.bias[...].astype(self.dtype))


class GroupNorm(nnx.Module):
    """torch.nn.GroupNorm, with float32 statistics."""

    def __init__(self, groups: int, channels: int, eps: float, compute: Compute):
        self.scale = _parameter((channels,), compute)
        self.bias = _parameter((channels,), compute)
        self.groups, self.eps, self.dtype = groups, eps, compute.dtype

    def __call__(self, x_bhwc: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        return group_norm(x_bhwc.astype(self.dtype), self.scale[...], self.bias[...], self.groups, self.eps)


class LayerNorm(nnx.Module):
    """torch.nn.LayerNorm over the last axis, with float32 statistics."""

    def __init__(self, width: int, compute: Compute, *, eps: float = 1e-5):
        self.scale = _parameter((width,), compute)
        self.bias = _parameter((width,), compute)
        self.eps, self.dtype = eps, compute.dtype

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        return layer_norm(x.astype(self.dtype), self.scale[...], self.bias[...], self.eps)


class Embed(nnx.Module):
    """A table of vectors. A number outside the table gives NaN, not a neighbour's vector."""

    def __init__(self, rows: int, width: int, compute: Compute):
        self.embedding = _parameter((rows, width), compute)
        self.dtype = compute.dtype

    def __call__(self, ids: Int[Array, "*rows"]) -> Float[Array, "*rows d"]:
        return jnp.take(self.embedding[...], ids, axis=0, mode="fill", fill_value=jnp.nan).astype(self.dtype)


class Nothing(nnx.Module):
    """A place in a list that torch gives to a layer without parameters (dropout)."""

    def __call__(self, x: Array) -> Array:
        return x


def _parameter(shape: tuple[int, ...], compute: Compute) -> nnx.Param:
    """A place for a parameter. Its zeros are only ever traced; values come from files or from Network.init."""
    return nnx.Param(jnp.zeros(shape, compute.param_dtype))
