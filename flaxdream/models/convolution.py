"""Two-dimensional convolution of NHWC pictures: one function for every convolution of every network.

TPUs and GPUs get XLA's convolution and its gradients. On CPUs those gradients take 1.0 to 2.6 times as long as
PyTorch's, so float32 convolutions have other forms there. CPU time for shapes of SD 1.5, PyTorch = 1 (one core,
jax 0.10.2, without XLA's YNNPACK fusions):

    pixels  channels     forward: XLA  Winograd   dx: XLA  Winograd  taps   dw: XLA  Winograd  columns
      4096   320 > 320           1.06      0.67      0.97      0.61   2.9      1.62      0.74     1.62
      1024   640 > 640           1.04      0.65      0.96      0.71   1.6      1.31      0.60     1.19
      1024  1280 > 1280          0.97      0.60      1.17      1.04   1.3      1.03      0.63     1.05
       256  1280 > 1280          0.84      0.91      1.68      2.40  0.95      1.17      1.06     0.92
        64  1280 > 1280          0.54      1.76      2.59      6.58  0.72      1.14      1.03     0.74

With XLA's YNNPACK fusions its convolutions of fewer channels and pixels are the faster ones, in whole steps more than
alone. Forward and backward pass of two small UNets with Winograd's form from 64 or 128 channels on, and without it, in
milliseconds on two threads: 32 to 128 channels, 16 x 16 cells, 32 rows: 314, 283; 64 to 128 channels, 32 x 32 cells, 2
rows: 720, 612.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from flaxdream.arrays import Array, Float
from flaxdream.models import winograd
from flaxdream.models.products import linear

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]
Form = Callable[..., Array]

FEWEST_PIXELS = 512  # below, transforming the kernel costs more than Winograd's products save
MOST_PIXELS = 2**16  # above, its intermediate arrays (four times the picture, twice) take too much memory
FEWEST_CHANNELS = 256  # below, XLA's own forms are the fastest in a step, whatever they are alone
MANY_PIXELS = 8192  # from here on those of half as many channels are the slower ones again


def conv2d(
    x_bhwc: Float[Array, "b h w c"],
    kernel_hwio: Float[Array, "kh kw c o"],
    strides: int | Pair = 1,
    padding: int | Sequence[Pair] = 0,
) -> Float[Array, "b h2 w2 o"]:
    """Cross-correlation of `x_bhwc` with `kernel_hwio`, as torch.nn.functional.conv2d without bias.

    `padding` is a number of zero rows and columns on every side, or ((top, bottom), (left, right)).
    """
    strides = (strides, strides) if isinstance(strides, int) else strides
    (top, bottom), (left, right) = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    sides = ((top, bottom), (left, right))
    if kernel_hwio.shape[:2] == strides == (1, 1) and sides == ((0, 0), (0, 0)):
        return linear(x_bhwc, kernel_hwio[0, 0])
    if strides == (1, 1) and kernel_hwio.shape[:2] == (3, 3) and all(0 <= n <= 2 for pair in sides for n in pair):
        return _three_by_three(x_bhwc, kernel_hwio, sides)
    return _plain(x_bhwc, kernel_hwio, strides, sides)


def _plain(x_bhwc: Array, kernel_hwio: Array, strides: Pair, padding: Sides) -> Array:
    return lax.conv_general_dilated(x_bhwc, kernel_hwio, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _three_by_three(x_bhwc: Array, kernel_hwio: Array, padding: Sides) -> Array:
    on_cpus, _, _ = _forms_on_cpus(x_bhwc, kernel_hwio)
    return _by_platform(on_cpus, partial(_plain, strides=(1, 1)), x_bhwc, kernel_hwio, padding)


def _forward(x_bhwc: Array, kernel_hwio: Array, padding: Sides) -> tuple[Array, tuple[Array, Array]]:
    return _three_by_three(x_bhwc, kernel_hwio, padding), (x_bhwc, kernel_hwio)


def _backward(padding: Sides, kept: tuple[Array, Array], dy_bhwo: Array) -> tuple[Array, Array]:
    x_bhwc, kernel_hwio = kept
    _, dx_on_cpus, dw_on_cpus = _forms_on_cpus(x_bhwc, kernel_hwio)

    def dx(kernel_hwio: Array, dy_bhwo: Array, padding: Sides) -> Array:
        return jax.linear_transpose(lambda x: _plain(x, kernel_hwio, (1, 1), padding), x_bhwc)(dy_bhwo)[0]

    def dw(x_bhwc: Array, dy_bhwo: Array, padding: Sides) -> Array:
        return jax.linear_transpose(lambda kernel: _plain(x_bhwc, kernel, (1, 1), padding), kernel_hwio)(dy_bhwo)[0]

    return (
        _by_platform(dx_on_cpus, dx, kernel_hwio, dy_bhwo, padding),
        _by_platform(dw_on_cpus, dw, x_bhwc, dy_bhwo, padding),
    )


_three_by_three.defvjp(_forward, _backward)


def _by_platform(on_cpus: Form | None, elsewhere: Form, one: Array, other: Array, padding: Sides) -> Array:
    elsewhere = partial(elsewhere, padding=padding)
    if on_cpus is None:
        return elsewhere(one, other)
    return lax.platform_dependent(one, other, cpu=partial(on_cpus, padding=padding), default=elsewhere)


def _forms_on_cpus(x_bhwc: Array, kernel_hwio: Array) -> tuple[Form | None, Form | None, Form | None]:
    """The functions for the result, dx and dw on a CPU; None is XLA's own."""
    if not x_bhwc.dtype == kernel_hwio.dtype == jnp.float32:
        return None, None, None
    narrow, pixels = min(kernel_hwio.shape[2:]), x_bhwc.size // x_bhwc.shape[-1]
    if narrow <= 16:  # a network's first and last convolution
        return None, None, _dw_by_columns
    fewest = FEWEST_CHANNELS if pixels < MANY_PIXELS else FEWEST_CHANNELS // 2
    if narrow < fewest or pixels > MOST_PIXELS:
        return None, None, None
    if pixels < FEWEST_PIXELS:
        return None, _dx_by_taps, _dw_by_columns
    return winograd.convolve, winograd.input_gradient, winograd.kernel_gradient


def _dx_by_taps(kernel_hwio: Array, dy_bhwo: Array, padding: Sides) -> Array:
    """One product gives what each output pixel passes back through each of the nine taps; shifted, they are summed.

    The large kernel is read once and as it lies in memory; the barrier keeps XLA from choosing another layout.
    """
    c, o = kernel_hwio.shape[2:]
    b, h, w, _ = dy_bhwo.shape
    taps = lax.optimization_barrier(kernel_hwio.reshape(9 * c, o) @ dy_bhwo.reshape(-1, o).T)
    zero = jnp.zeros((), dy_bhwo.dtype)
    (top, bottom), (left, right) = padding

    def shifted(tap_cbhw: Array, i: int, j: int) -> Array:
        around = ((0, 0, 0), (0, 0, 0), (i - top, 2 - i - bottom, 0), (j - left, 2 - j - right, 0))
        return lax.pad(tap_cbhw, zero, around)

    taps_ijcbhw = taps.reshape(3, 3, c, b, h, w)
    total_cbhw = sum(shifted(taps_ijcbhw[i, j], i, j) for i in range(3) for j in range(3))
    return jnp.transpose(total_cbhw, (1, 2, 3, 0))


def _dw_by_columns(x_bhwc: Array, dy_bhwo: Array, padding: Sides) -> Array:
    """One product of a picture with nine shifts of the other, side by side along the channels of the narrower one."""
    c, o = x_bhwc.shape[-1], dy_bhwo.shape[-1]
    if c <= o:
        columns = _columns(x_bhwc, dy_bhwo.shape, padding)
        return _over_pixels(columns, dy_bhwo).reshape(3, 3, c, o)
    (top, bottom), (left, right) = padding
    columns = _columns(dy_bhwo, x_bhwc.shape, ((2 - top, 2 - bottom), (2 - left, 2 - right)))
    taps_cijo = _over_pixels(x_bhwc, columns).reshape(c, 3, 3, o)
    return jnp.transpose(taps_cijo[:, ::-1, ::-1], (1, 2, 0, 3))


def _columns(x_bhwc: Array, shape: tuple[int, ...], padding: Sides) -> Array:
    """The nine shifts of a padded picture, each as high and wide as `shape`."""
    padded = jnp.pad(x_bhwc, ((0, 0), *padding, (0, 0)))
    return jnp.concatenate([padded[:, i : i + shape[1], j : j + shape[2]] for i in range(3) for j in range(3)], -1)


def _over_pixels(x: Array, y: Array) -> Array:
    return lax.dot_general(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), (((0,), (0,)), ((), ())))
