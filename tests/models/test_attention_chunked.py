"""Attention in chunks of queries, by head and all heads at once: results and gradients equal torch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flaxdream.models import attention_chunked
from flaxdream.models.attention_chunked import CHUNK, SMALLEST, at_once, chunked
from tests.models.twins import assert_close, draw

pytestmark = pytest.mark.usefixtures("platform")


def tensors(length, keys, heads=2, width=8, batch=1, value_width=None):
    shapes = [(batch, length, heads, width), (batch, keys, heads, width), (batch, keys, heads, value_width or width)]
    return [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def value_and_gradients(arrays, scale, chunk, weight=None):
    y, pull = jax.vjp(lambda *a: chunked(*a, scale, chunk), *arrays)
    return (y, *pull(jnp.asarray(draw(*y.shape, seed=9) if weight is None else weight, y.dtype)))


run = jax.jit(value_and_gradients, static_argnums=(1, 2))


def torchs(arrays, scale, dtype=torch.float32):
    """The same from torch."""
    leaves = [torch.from_numpy(np.asarray(a, np.float32)).to(dtype).requires_grad_() for a in arrays]
    heads_first = (leaf.transpose(1, 2) for leaf in leaves)
    y = torch.nn.functional.scaled_dot_product_attention(*heads_first, scale=scale).transpose(1, 2)
    (y * torch.from_numpy(draw(*y.shape, seed=9)).to(dtype)).sum().backward()
    return [tensor.detach().numpy() for tensor in (y, *(leaf.grad for leaf in leaves))]


def assert_all_close(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(np.asarray(ours, np.float32), theirs, tolerance)


@pytest.mark.parametrize(
    ("length", "keys", "chunk"), [(48, 48, 16), (49, 77, 16), (37, 1, 16), (15, 33, 16), (1, 20, 16), (5, 20, 1)]
)
def test_results_and_gradients_are_torchs_whether_or_not_chunks_divide_the_queries(length, keys, chunk):
    arrays = tensors(length, keys)
    assert_all_close(run(arrays, 8**-0.5, chunk), torchs(arrays, 8**-0.5))


@pytest.mark.parametrize(("heads", "width", "batch"), [(1, 8, 3), (5, 7, 1), (3, 40, 2)])
def test_heads_and_rows_keep_to_themselves(heads, width, batch):
    arrays = tensors(35, 29, heads, width, batch)
    assert_all_close(run(arrays, width**-0.5, 16), torchs(arrays, width**-0.5))


def test_values_may_be_of_another_width():
    arrays = tensors(35, 29, value_width=5)
    assert_all_close(run(arrays, 8**-0.5, 16), torchs(arrays, 8**-0.5))


def test_the_scale_is_the_one_given():
    arrays = tensors(35, 29)
    assert_all_close(run(arrays, 0.02, 16), torchs(arrays, 0.02))


def test_scores_of_thousands_neither_overflow_nor_vanish():
    q, k, v = tensors(35, 29)
    arrays = (q * 100, k * 100, v)
    found = run(arrays, 1.0, 16)
    # A score of 1e5 is known to 4e-3, so weights that are neither 0 nor 1 are known no better.
    assert_all_close(found[:1], torchs(arrays, 1.0, torch.float64)[:1], 1e-2)
    assert all(np.isfinite(a).all() for a in found)


def test_one_score_far_above_the_others_takes_all():
    q, k, v = tensors(35, 29)
    k[:, 3] = 1000 * q.mean((0, 1))  # towards every query alike
    q[...] = q.mean((0, 1))
    y = run((q, k, v), 1.0, 16)[0]
    np.testing.assert_allclose(y, np.broadcast_to(v[:, 3:4], y.shape), rtol=1e-6)


def test_scores_that_are_all_equal_give_the_mean():
    q, k, v = tensors(35, 29)
    y = run((q * 0, k, v), 1.0, 16)[0]
    np.testing.assert_allclose(y, np.broadcast_to(v.mean(1, keepdims=True), y.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [16, 128])
def test_half_precision_is_the_float32_result_rounded(chunk):
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in tensors(49, 300)]
    found, expected = run(arrays, 8**-0.5, chunk), torchs(arrays, 8**-0.5)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(ours, np.float32) - exact)
        assert error < 2**-8 * np.linalg.norm(exact)  # 2^-9 is half a unit in the last place


def test_chunks_may_be_mapped_over():
    arrays = [np.stack([a, 0.5 * a]) for a in tensors(35, 29)]
    weight = draw(1, 35, 2, 8, seed=9)
    together = jax.jit(jax.vmap(lambda *a: value_and_gradients(a, 0.3, 16, weight)))(*arrays)
    for i in range(2):
        assert_all_close([a[i] for a in together], run([a[i] for a in arrays], 0.3, 16), 1e-6)


def test_recomputing_for_the_backward_pass_changes_no_gradient():
    def loss(*arrays):
        return jnp.sin(chunked(*arrays, 0.3, 16)).sum()

    arrays = tensors(35, 29)
    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*arrays) for f in (jax.checkpoint(loss), loss))
    assert_all_close(found, expected, 1e-6)


def test_rows_spread_over_eight_devices_give_the_same(spread):
    arrays = tensors(35, 29, batch=8)
    assert_all_close(run([spread(a) for a in arrays], 0.3, 16), run(arrays, 0.3, 16), 1e-6)


def test_what_is_kept_for_the_backward_pass_has_no_axis_of_queries_by_keys():
    arrays = tensors(64, 48)
    kept = jax.eval_shape(lambda *a: jax.vjp(lambda *b: chunked(*b, 0.3, 16), *a)[1], *arrays)
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) == arrays[0].size


def test_what_is_at_work_at_once_is_as_much_as_a_devices_memory_on_the_chip_takes():
    """SD 1.5's largest layer: 256 queries of a row. Rows that lie anywhere stay together and the chunks get smaller."""

    def found(rows, *, cut, tokens=4096, stays=True):
        return at_once((rows, tokens, 8, 40), tokens, CHUNK, cut=cut, stays=stays)

    assert [found(rows, cut=True) for rows in (1, 3, 8)] == [(1, 256)] * 3
    assert [found(rows, cut=True, tokens=1024) for rows in (2, 4, 6, 3)] == [(2, 512), (2, 512), (2, 512), (1, 512)]
    assert found(4, cut=True, tokens=16384) == (1, 64)
    # nothing stays on the chip: all queries of a row, as far as they fit into 256 MiB of weights
    assert [found(4, cut=True, tokens=tokens, stays=False) for tokens in (1024, 4096, 5000, 9216)] == [
        (1, 1024), (1, 4096), (1, 2500), (1, 1536)
    ]  # fmt: skip
    assert found(1, cut=True, stays=False) == (1, 2048)  # a loop of two keeps the compiler from working ahead
    assert [found(rows, cut=False) for rows in (1, 2, 4, 8, 64)] == [
        (1, 256), (2, 128), (4, 64), (8, SMALLEST), (64, SMALLEST)
    ]  # fmt: skip


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])


@pytest.mark.parametrize("devices", [1, 2])
def test_rows_taken_one_after_the_other_on_each_device_give_the_same(devices, monkeypatch):
    monkeypatch.setattr(attention_chunked, "ON_CHIP", 4 * 2 * 29 * 16)  # the scores of one row's chunk
    arrays = tensors(35, 29, batch=4)
    mesh = mesh_of(devices)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        found = jax.jit(value_and_gradients, static_argnums=(1, 2))(jax.device_put(arrays, rows), 0.3, 16)
    assert_all_close(found, torchs(arrays, 0.3))


def test_rows_that_the_devices_do_not_divide_stay_together():
    arrays = tensors(35, 29, batch=3)
    with jax.set_mesh(mesh_of(2)):
        found = jax.jit(value_and_gradients, static_argnums=(1, 2))(arrays, 0.3, 16)
    assert_all_close(found, torchs(arrays, 0.3))


def test_where_nothing_stays_on_the_chip_scores_are_computed_again(monkeypatch):
    monkeypatch.setattr(attention_chunked, "keeps_on_chip", lambda: False)
    ours = jax.jit(value_and_gradients, static_argnums=(1, 2))
    arrays = tensors(35, 29, batch=2)
    assert_all_close(ours(arrays, 0.3, 16), torchs(arrays, 0.3))
    halves = [jnp.asarray(a, jnp.bfloat16) for a in tensors(49, 300)]
    for found, exact in zip(ours(halves, 0.3, 16), torchs(halves, 0.3), strict=True):
        assert np.linalg.norm(np.asarray(found, np.float32) - exact) < 2**-8 * np.linalg.norm(exact)
