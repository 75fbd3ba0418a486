"""Adam with both moments in 8 bits, blockwise: a quarter of the memory (Dettmers et al. 2022).

A code's highest set bit, at place e, says how large the value is, and its lower e bits, as a fraction f, where
it lies there: 8^(e - bits) (1 + 7 f), of `bits` bits. So the largest values have the most levels and the
smallest ones a single level ("dynamic tree quantization", with steps of 8 instead of 10, which are shifts).
Each block of up to 256 neighbours has a float32 scale that puts its largest value on the largest code.

What differs from bitsandbytes: The second moment is kept as its square root, which doubles its range, so that
none of it becomes 0 under a first moment that does not. Rounding is stochastic: a mean over a thousand steps
changes by less than half a level in each, and rounding to nearest would hold it where it is (on a small
regression the final loss is then 8 % off that of float32 Adam, against 0.1 % with stochastic rounding). And
blocks run along the last axis but one, so that codes have the axes and the sharding of their parameter.

Two codes lie in one uint16: the TPU compiler (of 0.0.42) cannot copy arrays of single bytes to and from the memory of
the host, where `--offload_optimizer` keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxdream.arrays import LANES, Array, Float, Int, Params, Shaped
from flaxdream.training.adam import adam_direction, moment
from flaxdream.training.stochastic_rounding import random_bits

MAX_BLOCK, MIN_BLOCK = 256, 32
MIN_SIZE = 4096  # smaller tensors keep float32 moments, as in bitsandbytes
SHARDS = 8  # blocks do not cross the borders of this many equal parts, where the sizes allow it
AT_ONCE = 2**19  # elements whose moments are between the codes at once on a TPU
SMALLEST = 1e-37  # a block below this is all zeros, so that 1 / scale is finite


class Blocks(NamedTuple):
    """A quantised tensor."""

    codes: Shaped[Array, "*shape"]  # uint16, the shape of the tensor, but the axis before the last is half as long
    scale: Float[Array, "*shape"]  # the same shape, but the axis before the last counts blocks


class Adam8bitState(NamedTuple):
    steps: Int[Array, ""]  # updates so far
    m: Params  # leaves are Blocks, or float32 arrays where the tensor is small
    root_v: Params  # the same; square roots of the second moment


def scale_by_adam_8bit(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """The direction of `scale_by_adam`, from and to quantised moments.

    On TPUs a large tensor's columns are done few after the other, in its own memory: what is between the codes stays
    on the chip (15.6 bytes a parameter move instead of 92). By the compiled program SD 1.5's step on one v5e chip takes
    7.2 GiB and 45 ms; whole tensors at once took 9.7 GiB and 93 ms, float32 moments take 11.6 GiB and 48 ms. The
    compiler needs 110 CPU seconds more for the loops. On v2 and v3, where nothing stays, only the memory is less.
    """

    def init(params: Params) -> Adam8bitState:
        def zeros() -> Params:
            return jax.tree.map(lambda p: _zeros(p.shape), params)

        return Adam8bitState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(grads: Params, state: Adam8bitState, params: Params | None = None) -> tuple[Params, Adam8bitState]:
        count = state.steps + 1
        leaves, tree = jax.tree.flatten(grads)
        ms, roots = (jax.tree.leaves(moments, is_leaf=_is_blocks) for moments in (state.m, state.root_v))
        bound = _largest_ratio(beta1, beta2, count)

        def of_columns(start: Any, parts: Any, shape: tuple[int, ...], stream: int) -> Any:
            """The direction of a leaf's columns from `start` on, and their moments."""
            g, old_m, old_root = parts
            m = moment(_float32(old_m, signed=True), g, beta1)
            v = moment(jnp.square(_float32(old_root, signed=False)), g * g, beta2)
            root = jnp.sqrt(v)
            m = jnp.clip(m, -bound * root, bound * root)
            bits = random_bits(shape, count, stream, (start, g.shape[-1]))
            new_m = _like(old_m, m, bits & 0xFFFF, signed=True)
            new_root = _like(old_root, root, bits >> 16, signed=False)
            return adam_direction(m, v, count, beta1, beta2, eps), new_m, new_root

        done = [
            _by_columns(partial(of_columns, shape=parts[0].shape, stream=stream), parts)
            for stream, parts in enumerate(zip(leaves, ms, roots, strict=True))
        ]
        direction, m_tree, root_tree = (jax.tree.unflatten(tree, column) for column in zip(*done, strict=True))
        return direction, Adam8bitState(count, m_tree, root_tree)

    return optax.GradientTransformation(init, update)


def _by_columns(work: Callable[[Any, Any], Any], whole: Any) -> Any:
    """`work(0, whole)` of a gradient and what is stored for it; on TPUs in parts of a few columns, one by one."""
    g, stored, _ = whole
    width = _columns(g.shape)
    if width == g.shape[-1] or not _is_blocks(stored):
        return work(0, whole)
    return jax.lax.platform_dependent(whole, tpu=partial(_one_by_one, work, width), default=partial(work, 0))


def _one_by_one(work: Callable[[Any, Any], Any], width: int, whole: Any) -> Any:
    """Each part's results take its place."""

    def part(number: Any, all_columns: Any) -> Any:
        start = number * width
        own = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, width, -1), all_columns)
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, -1), all_columns, work(start, own)
        )

    return jax.lax.fori_loop(0, whole[0].shape[-1] // width, part, whole)


def _columns(shape: tuple[int, ...]) -> int:
    """The most columns, whole registers of them, that divide the last axis and have AT_ONCE elements at most."""
    *before, d = shape
    widths = [w for w in range(LANES, d + 1, LANES) if d % w == 0 and w * math.prod(before) <= AT_ONCE]
    return max(widths, default=LANES if d % LANES == 0 else d)


def block_size(shape: tuple[int, ...]) -> int | None:
    """Elements in a block, along the last axis but one; None for a tensor that stays float32."""
    if len(shape) < 2 or math.prod(shape) < MIN_SIZE or shape[-2] % 2:
        return None
    for parts in (SHARDS, 1):
        sizes = [size for size in range(MIN_BLOCK, MAX_BLOCK + 1) if shape[-2] % (parts * size) == 0]
        if sizes:
            return max(sizes)
    return None


def quantise(x: Float[Array, "*shape"], random: Shaped[Array, "*shape"], size: int, *, signed: bool) -> Blocks:
    """x in blocks of `size` along its last axis but one; `random` holds 16 random bits for each element.

    A value between two levels goes up or down with the probability that keeps its mean; an unsigned one
    above 0 does not become 0.
    """
    bits = 7 if signed else 8
    blocks = _split(x, size)
    largest = jnp.max(jnp.abs(blocks), axis=-2)
    scale = jnp.where(largest > SMALLEST, largest / (1 - 0.875 / 2 ** (bits - 1)), 0)  # puts it on the largest code
    relative = jnp.abs(blocks) * jnp.where(scale > 0, 1 / scale, 0)[..., None, :]
    uniform = _split(random, size).astype(jnp.float32) / 2**16
    code = jnp.floor(_real_code(relative, bits) + uniform).astype(jnp.int32)
    code = jnp.clip(code, 0 if signed else (relative > 0).astype(jnp.int32), 2**bits - 1)
    if signed:
        code = jnp.where(blocks < 0, code | 128, code)
    return Blocks(_paired(code.reshape(x.shape)), scale)


def dequantise(blocks: Blocks, *, signed: bool) -> Float[Array, "*shape"]:
    """The float32 tensor that the codes stand for."""
    bits = 7 if signed else 8
    code = _unpaired(blocks.codes)
    x = _level(_split(code, _size(blocks)) & (2**bits - 1), bits) * blocks.scale[..., None, :]
    x = x.reshape(code.shape)
    return jnp.where(code & 128 > 0, -x, x) if signed else x


# A code as float32 is (1 + f) 2^e, the very e and f of the level that it stands for, so both ways are a few
# operations on the bits of floats, exact alike on every device; a table would be a gather for each element.
_MANTISSA, _ONE, _BIAS = 0x7FFFFF, 0x3F800000, 127


def _level(code: Int[Array, "*shape"], bits: int) -> Float[Array, "*shape"]:
    """The value of a code, for a scale of 1: 8^(e - bits) (1 + 7 f), and 0 for code 0."""
    raw = _raw(code.astype(jnp.float32))
    one_plus_f = _float((raw & _MANTISSA) | _ONE)
    octave = (raw >> 23) - _BIAS - bits
    return jnp.where(code > 0, (7 * one_plus_f - 6) * _two_to_the(3 * octave), 0)


def _real_code(x: Float[Array, "*shape"], bits: int) -> Float[Array, "*shape"]:
    """The inverse of `_level`, linear between levels."""
    binary = jnp.maximum((_raw(x) >> 23) - _BIAS + 3 * bits, 0)  # 8^-bits, the level of code 1, is at 0
    place = (binary * 171) >> 9  # binary // 3
    one_plus_f = (x * _two_to_the(3 * (bits - place)) + 6) * (1 / 7)
    return jnp.where(x < 8.0**-bits, x * 8.0**bits, one_plus_f * _two_to_the(place))


def _two_to_the(power: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    return _float((power + _BIAS) << 23)


def _raw(x: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    return jax.lax.bitcast_convert_type(x, jnp.int32)


def _float(raw: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jax.lax.bitcast_convert_type(raw, jnp.float32)


def _split(x: Shaped[Array, "... n d"], size: int) -> Shaped[Array, "... blocks size d"]:
    *before, n, d = x.shape
    return x.reshape(*before, n // size, size, d)


# A sum and a broadcast where slices and a concatenation would do the same: those end a fusion on TPUs.


def _paired(code: Int[Array, "... n d"]) -> Shaped[Array, "... half d"]:
    """Each code with another above it in one uint16, from the second half of the same of SHARDS equal parts."""
    *before, n, d = code.shape
    parts = SHARDS if n % (2 * SHARDS) == 0 else 1
    halves = code.reshape(*before, parts, 2, n // parts // 2, d)
    return (halves << _places(halves.ndim)).sum(-3).astype(jnp.uint16).reshape(*before, n // 2, d)


def _unpaired(pairs: Shaped[Array, "... half d"]) -> Int[Array, "... n d"]:
    *before, half, d = pairs.shape
    parts = SHARDS if half % SHARDS == 0 else 1
    wide = pairs.astype(jnp.int32).reshape(*before, parts, 1, half // parts, d)
    return (wide >> _places(wide.ndim) & 255).reshape(*before, 2 * half, d)


def _places(ndim: int) -> Int[Array, "*one 2 1 1"]:
    return 8 * jnp.arange(2, dtype=jnp.int32).reshape((1,) * (ndim - 3) + (2, 1, 1))


def _largest_ratio(beta1: float, beta2: float, count: Int[Array, ""]) -> Float[Array, ""]:
    """The largest |m| / sqrt(v) that any gradients can lead to in `count` steps, by Cauchy-Schwarz.

    Rounding can exceed it where a value is a millionth of the largest of its block. Held to it, no element
    takes a longer step than float32 Adam could.
    """
    ratio = beta1**2 / beta2
    exponent = count.astype(jnp.float32) * math.log(ratio) if ratio > 0 else -jnp.inf
    terms = jnp.expm1(exponent) / (ratio - 1) if ratio != 1 else count
    return (1 - beta1) / math.sqrt(1 - beta2) * jnp.sqrt(terms)


def _zeros(shape: tuple[int, ...]) -> Any:
    size = block_size(shape)
    if size is None:
        return jnp.zeros(shape, jnp.float32)
    *before, n, d = shape
    return Blocks(jnp.zeros((*before, n // 2, d), jnp.uint16), jnp.zeros((*before, n // size, d), jnp.float32))


def _float32(stored: Any, *, signed: bool) -> Float[Array, "*shape"]:
    return dequantise(stored, signed=signed) if _is_blocks(stored) else stored


def _like(stored: Any, x: Float[Array, "*shape"], random: Shaped[Array, "*shape"], *, signed: bool) -> Any:
    return quantise(x, random, _size(stored), signed=signed) if _is_blocks(stored) else x


def _size(blocks: Blocks) -> int:
    """The block size, from the arrays themselves."""
    return 2 * blocks.codes.shape[-2] // blocks.scale.shape[-2]


def _is_blocks(x: Any) -> bool:
    return isinstance(x, Blocks)
