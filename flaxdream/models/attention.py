"""Scaled dot-product attention: one function for every attention layer, several kernels behind it.

`auto` takes cuDNN's kernel on NVIDIA GPUs in half precision, query chunks from CHUNKED_FROM scores a head on (on CPUs
from CHUNKED_FROM_ON_CPUS on), and the plain form below. On TPUs the plain form of SD 1.5's largest layer (4096 tokens,
8 heads of 40, forward and backward) keeps 768 MiB, the chunks nothing on v5e and 58 MiB on v3, at a third to a quarter
of the compiler's cycles on every generation.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from flaxdream.arrays import LANES, Array, Float
from flaxdream.models.attention_chunked import CHUNK, chunked
from flaxdream.models.own_rows import on_own_rows, sharers

IMPLEMENTATIONS = ("auto", "xla", "chunked", "cudnn", "flash")
CHUNKED_FROM = 1024 * 1024  # scores a head; 1024 tokens to themselves
CHUNKED_FROM_ON_CPUS = 128 * 128  # there a head at a time, whose scores stay in the caches


def attention(
    q_blnk: Float[Array, "b l n k"],
    k_bsnk: Float[Array, "b s n k"],
    v_bsnk: Float[Array, "b s n k"],
    *,
    scale: float | None = None,
    mask: Array | None = None,
    implementation: str = "auto",
) -> Float[Array, "b l n k"]:
    """softmax(scale * q k^T + mask) v for each head; the softmax is in float32 whatever the inputs are.

    `scale` is 1/sqrt(k) unless given. `mask` broadcasts against (b, n, l, s): boolean (True may be seen)
    or float (added to the scores). `implementation`:

    - `xla`: the plain form; the scores of all queries are in memory at once.
    - `chunked`: CHUNK queries at a time, recomputed in the backward pass; any platform, shape and mask.
    - `cudnn`: one fused kernel on NVIDIA GPUs; bfloat16 or float16, head widths that are multiples of 8.
    - `flash`: a Pallas kernel on TPUs (bfloat16 not on v3), for tokens that are a multiple of 128 and no mask; other
      layers, such as those to the text, are plain. On several devices the trace must know them (`jax.set_mesh`):
      each takes its rows.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {implementation!r} is not known. Choose one of: {', '.join(IMPLEMENTATIONS)}."
        )
    scale = 1 / math.sqrt(q_blnk.shape[-1]) if scale is None else scale
    if implementation == "auto":
        implementation = _choice(q_blnk, k_bsnk)
    if implementation == "flash" and mask is None and q_blnk.shape[1] % LANES == k_bsnk.shape[1] % LANES == 0:
        return _flash(q_blnk, k_bsnk, v_bsnk, scale)
    if implementation == "cudnn":
        return _cudnn(q_blnk, k_bsnk, v_bsnk, scale, mask)
    if implementation == "chunked":
        several = q_blnk.shape[1] > CHUNK
        if mask is None and (several or _platform() == "cpu"):
            return chunked(q_blnk, k_bsnk, v_bsnk, scale)
        if mask is not None and several:
            return _chunked_with_mask(q_blnk, k_bsnk, v_bsnk, scale, mask)
    return _plain(q_blnk, k_bsnk, v_bsnk, scale, mask)


def _choice(q_blnk: Array, k_bsnk: Array) -> str:
    if _platform() == "gpu" and not _cudnn_problems(q_blnk):
        return "cudnn"
    enough = CHUNKED_FROM_ON_CPUS if _platform() == "cpu" else CHUNKED_FROM
    return "chunked" if q_blnk.shape[1] * k_bsnk.shape[1] >= enough else "xla"


def _platform() -> str:
    """That of the mesh in use (`jax.set_mesh`), which may not be this machine's; else JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _plain(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float, mask: Array | None) -> Array:
    scores_bnls = jnp.einsum("blnk,bsnk->bnls", q_blnk, k_bsnk, preferred_element_type=jnp.float32) * scale
    if mask is not None:
        mask = jnp.broadcast_to(mask, scores_bnls.shape)
        if mask.dtype == jnp.bool_:
            scores_bnls = jnp.where(mask, scores_bnls, jnp.finfo(jnp.float32).min)
        else:
            scores_bnls = scores_bnls + mask.astype(jnp.float32)
    weights_bnls = jax.nn.softmax(scores_bnls, axis=-1).astype(v_bsnk.dtype)
    return jnp.einsum("bnls,bsnk->blnk", weights_bnls, v_bsnk)


def _chunked_with_mask(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float, mask: Array) -> Array:
    b, length, n, width = q_blnk.shape
    count = -(-length // CHUNK)
    spare = count * CHUNK - length
    q_cblnk = jnp.moveaxis(
        jnp.pad(q_blnk, ((0, 0), (0, spare), (0, 0), (0, 0))).reshape(b, count, CHUNK, n, width), 1, 0
    )
    masks = None
    if mask.ndim >= 2 and mask.shape[-2] > 1:  # a mask of its own for each query
        wide = jnp.broadcast_to(mask, (*(1,) * (4 - mask.ndim), *mask.shape))
        wide = jnp.pad(wide, ((0, 0), (0, 0), (0, spare), (0, 0)))
        masks = jnp.moveaxis(wide.reshape(*wide.shape[:2], count, CHUNK, wide.shape[3]), 2, 0)

    @jax.checkpoint
    def chunk(part: tuple[Array, Array | None]) -> Array:
        return _plain(part[0], k_bsnk, v_bsnk, scale, mask if part[1] is None else part[1])

    o_cblnk = jax.lax.map(chunk, (q_cblnk, masks))
    return jnp.moveaxis(o_cblnk, 0, 1).reshape(b, count * CHUNK, n, width)[:, :length]


def _cudnn_problems(q_blnk: Array) -> list[str]:
    problems = []
    if q_blnk.dtype not in (jnp.bfloat16, jnp.float16):
        problems.append(f"the inputs are {q_blnk.dtype}; it takes bfloat16 and float16")
    if q_blnk.shape[-1] % 8 or q_blnk.shape[-1] > 128:
        problems.append(f"the head width is {q_blnk.shape[-1]}; it takes multiples of 8 up to 128")
    return problems


def _cudnn(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float, mask: Array | None) -> Array:
    problems = _cudnn_problems(q_blnk)
    if _platform() != "gpu":
        problems.append(f"this is a {_platform()}; it runs on NVIDIA GPUs")
    if problems:
        raise ValueError(f"attention implementation 'cudnn': {'; '.join(problems)}. Choose 'auto' or 'chunked'.")
    bias = mask if mask is not None and mask.dtype != jnp.bool_ else None
    return jax.nn.dot_product_attention(
        q_blnk,
        k_bsnk,
        v_bsnk,
        bias=bias if bias is None else bias.astype(q_blnk.dtype),
        mask=None if mask is None or bias is not None else mask,
        scale=scale,
        implementation="cudnn",
    )


def _flash(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float) -> Array:
    if _platform() != "tpu":
        raise ValueError(
            f"attention implementation 'flash': this is a {_platform()}; it runs on TPUs. Choose 'auto' or 'chunked'."
        )
    return flash_on_mesh(q_blnk, k_bsnk, v_bsnk, scale)


def flash_on_mesh(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float) -> Array:
    """The compiler cannot spread a Pallas kernel over devices: rows are cut over all axes of the mesh in use."""
    if q_blnk.shape[0] % sharers():
        raise ValueError(
            f"attention implementation 'flash': {q_blnk.shape[0]} rows cannot be cut over {sharers()} devices. "
            "Choose a batch that they divide, or 'chunked'."
        )
    return on_own_rows(partial(_flash_kernel, scale=scale), q_blnk, k_bsnk, v_bsnk)


def _flash_kernel(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float) -> Array:
    """The Pallas kernel on heads padded to whole registers; the zeros change neither scores nor results."""
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    width = q_blnk.shape[-1]
    spare = -width % LANES

    def heads_first(x_blnk: Array) -> Array:
        return jnp.pad(x_blnk, ((0, 0), (0, 0), (0, 0), (0, spare))).transpose(0, 2, 1, 3)

    blocks = _blocks(kernel, q_blnk.shape[1], k_bsnk.shape[1])
    o_bnlk = kernel.flash_attention(
        heads_first(q_blnk), heads_first(k_bsnk), heads_first(v_bsnk), sm_scale=scale, block_sizes=blocks
    )
    return o_bnlk.transpose(0, 2, 1, 3)[..., :width]


def _blocks(kernel, queries: int, keys: int):  # type: ignore[no-untyped-def]
    """The largest blocks up to 512 tokens that divide both lengths."""
    q, s = (max(size for size in (128, 256, 512) if length % size == 0) for length in (queries, keys))
    return kernel.BlockSizes(
        block_q=q, block_k_major=s, block_k=s, block_b=1,
        block_q_major_dkv=q, block_k_major_dkv=s, block_k_dkv=s, block_q_dkv=q,
        block_k_major_dq=s, block_k_dq=s, block_q_dq=q,
    )  # fmt: skip
