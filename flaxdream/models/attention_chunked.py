"""Attention over chunks of queries: the matrix of all scores never exists, and the backward pass computes it again.

The same numbers as the plain form within rounding (softmax in float32). What is kept for the backward pass is the
output and, for each query and head, the logarithm of the sum of its exponentials.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxdream.arrays import Array, Float
from flaxdream.models.own_rows import can_be_cut, keeps_on_chip, on_own_rows

CHUNK = 512  # queries; on TPUs and CPUs the fastest or within 5 % of it (of 128, 256, 512, 1024)
SMALLEST = 64
# Bytes of the scores at work at once that TPUs from v4 on keep on the chip; else every pass over them goes through the
# main memory. With twice as many, SD 1.5's step at 4 rows a chip takes 9.5 ms a row on v6e instead of 6.5.
ON_CHIP = 2**25
# Bytes of the weights of one row that older TPUs write to their main memory at once.
IN_MEMORY = 2**28

Kept = tuple[Array, Array, Array, Array, Array]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def chunked(
    q_blnk: Float[Array, "b l n k"],
    k_bsnk: Float[Array, "b s n k"],
    v_bsnk: Float[Array, "b s n k"],
    scale: float,
    chunk: int = CHUNK,
) -> Float[Array, "b l n k"]:
    """softmax(scale q k^T) v for each head."""
    return _forward(q_blnk, k_bsnk, v_bsnk, scale, chunk)[0]


def _forward(q_blnk: Array, k_bsnk: Array, v_bsnk: Array, scale: float, chunk: int) -> tuple[Array, Kept]:
    arrays = q_blnk, k_bsnk, v_bsnk
    o_blnk, logsum_bln = _on_devices(_forward_by_head, _forward_all_heads, *arrays, scale=scale, chunk=chunk)
    return o_blnk, (*arrays, o_blnk, logsum_bln)


def _backward(scale: float, chunk: int, kept: Kept, do_blnk: Array) -> tuple[Array, Array, Array]:
    q_blnk, k_bsnk, v_bsnk, o_blnk, logsum_bln = kept
    delta_bln = _sum_of_heads(o_blnk.astype(jnp.float32) * do_blnk.astype(jnp.float32))
    arrays = q_blnk, k_bsnk, v_bsnk, do_blnk, delta_bln, logsum_bln
    return _on_devices(_backward_by_head, _backward_all_heads, *arrays, scale=scale, chunk=chunk)


chunked.defvjp(_forward, _backward)


def _sum_of_heads(x_blnk: Array) -> Array:
    """The sum over each head's width, by a product: TPUs pad an innermost axis of 40 to 128, and rows of 8 * 40 not."""
    heads, width = x_blnk.shape[2:]
    member_fn = jnp.repeat(jnp.eye(heads, dtype=x_blnk.dtype), width, axis=0)
    x_blf = x_blnk.reshape(*x_blnk.shape[:2], heads * width)
    return jnp.einsum("blf,fn->bln", x_blf, member_fn, precision=lax.Precision.HIGHEST)


def _on_devices(
    by_head: Callable[..., Any], all_heads: Callable[..., Any], *arrays: Array, scale: float, chunk: int
) -> Any:
    """The form for CPUs or the other; where the devices' own rows are known, each takes them in turn."""
    cut = can_be_cut(arrays[0].shape[0])

    def run(*arrays: Array) -> Any:
        return lax.platform_dependent(
            *arrays,
            cpu=partial(by_head, scale=scale, chunk=chunk),
            default=partial(_by_rows, all_heads, scale=scale, chunk=chunk, cut=cut),
        )

    return on_own_rows(run, *arrays) if cut else run(*arrays)


# --- all heads of a chunk at once ---


def _by_rows(run: Callable[..., Any], *arrays: Array, scale: float, chunk: int, cut: bool) -> Any:
    """`run` on as many rows at a time as keep their scores on the chip."""
    q, k = arrays[:2]
    rows, chunk = at_once(q.shape, k.shape[1], chunk, cut=cut, stays=keeps_on_chip())
    run = partial(run, scale=scale, chunk=chunk)
    if rows == q.shape[0]:
        return run(*arrays)
    parts = tuple(x.reshape(-1, rows, *x.shape[1:]) for x in arrays)
    results = lax.map(lambda part: run(*part), parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)


def at_once(shape: tuple[int, ...], keys: int, chunk: int, *, cut: bool, stays: bool = True) -> tuple[int, int]:
    """Rows and queries whose scores fit ON_CHIP: fewer rows first if rows may be cut, then halves of the chunk.

    Sums over chunks, of the gradients of keys and values, then stay there too: SD 1.5's largest layer at 4 rows a v5e
    takes 2.0 ms for both passes, and 5.6 with chunks of 128 queries of all rows. Where nothing `stays` on the chip, one
    row and, whatever the chunk, as many queries as fit IN_MEMORY, so that those sums are seldom passed on. For a lone
    row half of them: without a loop around them the compiler makes the weights of several layers before their time.
    """
    rows, queries, heads, _ = shape
    of_query = 4 * heads * keys
    if cut and not stays:
        chunks = max(-(-queries * of_query // 2 // IN_MEMORY), 2 if rows == 1 else 1)
        return 1, -(-queries // chunks)
    if cut:
        fitting = [count for count in range(1, rows + 1) if rows % count == 0 and count * chunk * of_query <= ON_CHIP]
        rows = max(fitting, default=1)
    while chunk > SMALLEST and rows * chunk * of_query > ON_CHIP:
        chunk //= 2
    return rows, chunk


def _forward_all_heads(q: Array, k: Array, v: Array, *, scale: float, chunk: int) -> tuple[Array, Array]:
    def one(q_bcnk: Array) -> tuple[Array, Array]:
        scores_bncs = _scores(q_bcnk, k) * scale
        most_bnc1 = scores_bncs.max(-1, keepdims=True)
        if again:
            scores_bncs = _scores(_again(q_bcnk, 0), k) * scale
        weights_bncs = jnp.exp(scores_bncs - most_bnc1).astype(v.dtype)
        sums_bcnk = jnp.einsum("bncs,bsnk->bcnk", weights_bncs, v_ones, preferred_element_type=jnp.float32)
        sum_bcn1 = sums_bcnk[..., -1:]
        logsum_bcn = (most_bnc1.transpose(0, 2, 1, 3) + jnp.log(sum_bcn1))[..., 0]
        return (sums_bcnk[..., :-1] / sum_bcn1).astype(v.dtype), logsum_bcn

    again = not keeps_on_chip()  # two products that pass nothing on cost less than scores written and read
    v_ones = jnp.concatenate([v, jnp.ones((*v.shape[:3], 1), v.dtype)], -1)  # its product is the sum of the weights
    o, logsum = lax.map(one, _cut(q, chunk))
    return _joined(o, q.shape[1]), _joined(logsum, q.shape[1])


def _backward_all_heads(
    q: Array, k: Array, v: Array, do: Array, delta: Array, logsum: Array, *, scale: float, chunk: int
) -> tuple[Array, Array, Array]:
    def one(sums: tuple[Array, Array], rows: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        q_bcnk, do_bcnk, delta_bcn, logsum_bcn = rows
        einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)

        def weights(x_bcnk: Array) -> Array:
            return jnp.exp(_scores(x_bcnk, k) * scale - logsum_bcn.transpose(0, 2, 1)[..., None])

        def dscores(weights_bncs: Array, dx_bcnk: Array) -> Array:
            dweights_bncs = _scores(dx_bcnk, v) - delta_bcn.transpose(0, 2, 1)[..., None]
            return (weights_bncs * dweights_bncs * scale).astype(q.dtype)

        weights_bncs = weights(q_bcnk)
        if stays:
            for_dv, for_dk = weights_bncs.astype(do.dtype), dscores(weights_bncs, do_bcnk)
            for_dq = for_dk
        else:
            weights_bncs = lax.optimization_barrier(weights_bncs.astype(do.dtype))
            for_dv = weights(_again(q_bcnk, 1)).astype(do.dtype)
            for_dk, for_dq = (dscores(weights_bncs, _again(do_bcnk, n)) for n in range(2))
        dk = sums[0] + einsum("bncs,bcnk->bsnk", for_dk, q_bcnk)
        dv = sums[1] + einsum("bncs,bcnk->bsnk", for_dv, do_bcnk)
        return (dk, dv), einsum("bncs,bsnk->bcnk", for_dq, k).astype(q.dtype)

    stays = keeps_on_chip()
    zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (dk, dv), dq = lax.scan(one, zeros, tuple(_cut(rows, chunk) for rows in (q, do, delta, logsum)))
    return _joined(dq, q.shape[1]), dk.astype(k.dtype), dv.astype(v.dtype)


def _scores(q_bcnk: Array, k_bsnk: Array) -> Array:
    return jnp.einsum("bcnk,bsnk->bncs", q_bcnk, k_bsnk, preferred_element_type=jnp.float32)


def _again(x: Array, number: int) -> Array:
    """`x`, so that what is computed of it is computed anew: the compiler merges products of the same operands."""
    return lax.optimization_barrier((x, jnp.int32(number)))[0]


def _cut(x: Array, chunk: int) -> Array:
    """Axis 1 in chunks, the last one filled with zeros; the chunks' axis comes first."""
    chunk = min(chunk, x.shape[1])
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


def _joined(chunks: Array, length: int) -> Array:
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


# --- one head at a time, for caches of a few megabytes ---
# Scores lie as (s, chunk): sums and maxima then run over rows of memory, and no product needs a large matrix
# transposed, which costs XLA's CPU products four fifths of their speed. Each head is computed in float32: XLA's CPU
# compiler refuses some products of bfloat16 with a float32 result.


def _forward_by_head(q: Array, k: Array, v: Array, *, scale: float, chunk: int) -> tuple[Array, Array]:
    b, length, n, _ = q.shape

    def head(arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q_xck, k_sk, v_ks = (x.astype(jnp.float32) for x in arrays)
        ones_v_ks = jnp.concatenate([v_ks, jnp.ones((1, v_ks.shape[1]), v_ks.dtype)])  # its product is the sum

        def one(q_ck: Array) -> tuple[Array, Array]:
            scores_sc = _product(k_sk, q_ck)
            most_c = scores_sc.max(0)
            sums_kc = ones_v_ks @ jnp.exp(scores_sc - most_c[None])
            return sums_kc[:-1] / sums_kc[-1:], most_c + jnp.log(sums_kc[-1])

        return lax.map(one, q_xck)

    scaled = _heads(q.astype(jnp.float32) * scale, chunk)
    o_hxkc, logsum_hxc = lax.map(head, (scaled, _heads(k), _heads(v).transpose(0, 2, 1)))
    o_hlk = o_hxkc.transpose(0, 1, 3, 2).reshape(b * n, -1, o_hxkc.shape[2])[:, :length]
    logsum_hl = logsum_hxc.reshape(b * n, -1)[:, :length]
    return _unheads(o_hlk, b).astype(q.dtype), logsum_hl.reshape(b, n, length).transpose(0, 2, 1)


def _backward_by_head(
    q: Array, k: Array, v: Array, do: Array, delta: Array, logsum: Array, *, scale: float, chunk: int
) -> tuple[Array, Array, Array]:
    b, length, n, _ = q.shape

    def head(arrays: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        q_xck, do_xck, delta_xc, logsum_xc, k_sk, v_sk = (x.astype(jnp.float32) for x in arrays)
        k_ks = k_sk.T

        def one(sums: tuple[Array, Array], rows: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
            q_ck, do_ck, delta_c, logsum_c = rows
            weights_sc = jnp.exp(_product(k_sk, q_ck) - logsum_c[None])
            dscores_sc = weights_sc * (_product(v_sk, do_ck) - delta_c[None])
            return (sums[0] + dscores_sc @ q_ck, sums[1] + weights_sc @ do_ck), k_ks @ dscores_sc

        zeros = jnp.zeros_like(k_sk), jnp.zeros_like(v_sk)
        (dk_sk, dv_sk), dq_xkc = lax.scan(one, zeros, (q_xck, do_xck, delta_xc, logsum_xc))
        return dq_xkc, dk_sk, dv_sk

    per_query = [_heads(x, chunk) for x in (q.astype(jnp.float32) * scale, do)]
    per_query += [_heads(x[..., None], chunk)[..., 0] for x in (delta, logsum)]
    dq_hxkc, dk_hsk, dv_hsk = lax.map(head, (*per_query, _heads(k), _heads(v)))
    dq_hlk = dq_hxkc.transpose(0, 1, 3, 2).reshape(b * n, -1, dq_hxkc.shape[2])[:, :length]
    dq = _unheads(dq_hlk * scale, b).astype(q.dtype)
    return dq, _unheads(dk_hsk, b).astype(k.dtype), _unheads(dv_hsk, b).astype(v.dtype)


def _product(a_sk: Array, b_ck: Array) -> Array:
    return lax.dot_general(a_sk, b_ck, (((1,), (1,)), ((), ())))


def _heads(x_blnk: Array, chunk: int | None = None) -> Array:
    """Rows and heads as one axis; with `chunk`, queries in chunks."""
    b, length, n, k = x_blnk.shape
    x = x_blnk.transpose(0, 2, 1, 3).reshape(b * n, length, k)
    if chunk is None:
        return x
    chunk = min(chunk, length)
    return jnp.pad(x, ((0, 0), (0, -length % chunk), (0, 0))).reshape(b * n, -1, chunk, k)


def _unheads(x_hlk: Array, b: int) -> Array:
    return x_hlk.reshape(b, -1, *x_hlk.shape[1:]).transpose(0, 2, 1, 3)
