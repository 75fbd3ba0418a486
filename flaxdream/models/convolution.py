"""Two-dimensional convolution of NHWC images: one function for every convolution of every network."""

from __future__ import annotations

from collections.abc import Sequence

from jax import lax

from flaxdream.arrays import Array, Float

Pair = tuple[int, int]


def conv2d(
    x_bhwc: Float[Array, "b h w c"],
    kernel_hwio: Float[Array, "kh kw c o"],
    strides: int | Pair = 1,
    padding: int | Sequence[Pair] = 0,
) -> Float[Array, "b h2 w2 o"]:
    """Cross-correlation of `x_bhwc` with `kernel_hwio`, as torch.nn.functional.conv2d without bias.

    `padding` is a number of zero rows and columns on every side, or ((top, bottom), (left, right)).
    """
    if isinstance(strides, int):
        strides = (strides, strides)
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(
        x_bhwc,
        kernel_hwio,
        window_strides=strides,
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
