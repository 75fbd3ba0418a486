"""Every kernel of attention against torch, with gradients, masks and the shapes of Stable Diffusion."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flaxdream.models.attention import CHUNK, IMPLEMENTATIONS, attention, flash_on_mesh

ANYWHERE = ("auto", "xla", "chunked")


def tensors(length, keys, heads=2, width=8, dtype=np.float32):
    generator = np.random.default_rng(length + keys)
    return [generator.standard_normal((2, size, heads, width)).astype(dtype) for size in (length, keys, keys)]


def torch_attention(q, k, v, mask=None):
    heads_first = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in heads_first), attn_mask=None if mask is None else torch.from_numpy(mask)
    ).transpose(1, 2)
    out.square().sum().backward()
    return out.detach().numpy(), [x.grad.numpy() for x in heads_first]


@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize(("length", "keys"), [(64, 64), (CHUNK + 88, CHUNK + 88), (2 * CHUNK, 77)])
def test_results_and_gradients_equal_torch(implementation, length, keys):
    inputs = tensors(length, keys)
    assert_equal_to_torch(inputs, implementation)


def assert_equal_to_torch(inputs, implementation, mask=None, torch_mask=None):
    want, want_grads = torch_attention(*inputs, mask=torch_mask)

    def total(*args):
        out = attention(*args, mask=mask, implementation=implementation)
        return jnp.square(out).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(*inputs)
    np.testing.assert_allclose(out, want, atol=1e-5)
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize("kind", ["causal", "keys", "added", "per head"])
def test_results_and_gradients_under_a_mask_equal_torch(implementation, kind):
    length = CHUNK + 40
    inputs = tensors(length, length)
    generator = np.random.default_rng(0)
    mask = {
        "causal": np.tril(np.ones((length, length), bool))[None, None],
        "keys": (generator.random((2, 1, 1, length)) > 0.3),
        "added": generator.standard_normal((length, length)).astype(np.float32)[None, None],
        "per head": generator.standard_normal((2, 2, length, length)).astype(np.float32),
    }[kind]
    assert_equal_to_torch(inputs, implementation, mask, np.broadcast_to(mask, (2, 2, length, length)).copy())


def test_rows_spread_over_eight_devices_give_the_same():
    q, k, v = (np.concatenate([x] * 4) for x in tensors(2 * CHUNK, 2 * CHUNK))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = jax.jit(attention)(*(jax.device_put(x, rows) for x in (q, k, v)))
    np.testing.assert_allclose(spread, attention(q, k, v), atol=1e-6)


def test_chunks_never_hold_the_scores_of_all_queries():
    length = 4 * CHUNK
    q, k, v = tensors(length, length)

    def bytes_at_once(implementation):
        def loss(*args):
            return attention(*args, implementation=implementation).sum()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    all_scores = 2 * 2 * length * length * 4
    assert bytes_at_once("chunked") < all_scores <= bytes_at_once("xla")


def test_half_precision_has_a_float32_softmax():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in tensors(64, 64))
    exact = attention(*(x.astype(jnp.float32) for x in (q, k, v)))
    got = attention(q, k, v)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=2e-2)


def test_what_cannot_run_here_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"float32; it takes bfloat16.*this is a cpu"):
        attention(*tensors(8, 8), implementation="cudnn")
    with pytest.raises(ValueError, match=r"'flash': this is a cpu; it runs on TPUs"):
        attention(*tensors(128, 128), implementation="flash")
    with pytest.raises(ValueError, match=", ".join(IMPLEMENTATIONS)):
        attention(*tensors(8, 8), implementation="fast")


@pytest.mark.parametrize(("platform", "kernel"), [("gpu", "flash"), ("tpu", "cudnn")])
def test_a_kernel_is_asked_of_the_mesh_in_use_and_not_of_this_machine(platform, kernel):
    device = jax.sharding.AbstractDevice(device_kind="a device", num_cores=None, platform=platform)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), (jax.sharding.AxisType.Auto,), abstract_device=device)
    inputs = [jax.ShapeDtypeStruct((1, 128, 2, 8), jnp.bfloat16)] * 3
    words = f"'{kernel}': this is a {platform}; it runs on"
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match=words):
        jax.eval_shape(partial(attention, implementation=kernel), *inputs)


def test_the_flash_kernel_equals_torch_in_the_interpreter():
    from jax.experimental.pallas import tpu as pltpu

    inputs = tensors(256, 256, width=40)
    want, _ = torch_attention(*inputs)
    with pltpu.force_tpu_interpret_mode():
        got = flash_on_mesh(*inputs, scale=40**-0.5)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_flash_kernel_spreads_its_rows_over_the_mesh_in_use():
    from jax.experimental.pallas import tpu as pltpu

    q, k, v = (np.concatenate([x, -x]) for x in tensors(128, 128, width=40))
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))

    def loss(*inputs):
        return jnp.sin(flash_on_mesh(*inputs, scale=40**-0.5)).sum()

    def plain(*inputs):
        return jnp.sin(attention(*inputs, implementation="xla")).sum()

    with pltpu.force_tpu_interpret_mode(), jax.set_mesh(mesh):
        spread = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        text = spread.lower(*(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for x in (q, k, v))).as_text()
        with pytest.raises(ValueError, match="3 rows cannot be cut over 4 devices"):
            jax.eval_shape(loss, q[:3], k[:3], v[:3])
        got = spread(*(jax.device_put(x, rows) for x in (q, k, v)))
    assert "manual" in text  # sharded by hand
    for ours, theirs in zip(got, jax.grad(plain, argnums=(0, 1, 2))(q, k, v), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_layers_that_the_flash_kernel_cannot_take_are_plain():
    q, k, v = tensors(256, 77)
    np.testing.assert_array_equal(attention(q, k, v, implementation="flash"), attention(q, k, v, implementation="xla"))


@pytest.mark.parametrize(("length", "keys", "by_head"), [(1024, 77, True), (256, 256, True), (64, 77, False)])
def test_cpus_take_a_head_at_a_time_where_its_scores_are_many(length, keys, by_head):
    """One chunk of queries is enough: all scores of a head, not those of all heads, are in memory."""
    inputs = tensors(length, keys)
    program = jax.jit(attention).lower(*inputs).as_text()
    assert ("stablehlo.while" in program) == by_head
    assert_equal_to_torch(inputs, "auto")
