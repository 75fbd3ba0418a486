"""Parameters in parts: gathered once, in the type that is computed in; gradients summed into their parts."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flaxdream.training.mesh import make_mesh, param_shardings, rows_sharding
from flaxdream.training.whole_params import WholeParams

WIDTH = 256
SHAPES = {"kernel": (WIDTH, WIDTH), "embedding": (WIDTH, WIDTH), "bias": (WIDTH,)}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(fsdp=4)


@pytest.fixture(scope="module")
def params(mesh):
    keys = jax.random.split(jax.random.key(0), 3)
    whole = {name: jax.random.normal(key, shape) / 16 for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)}
    return jax.device_put(whole, param_shardings(whole, mesh))


def gradients(params, rows, whole=None):
    def loss(params):
        y = jnp.tanh(rows @ params["kernel"].astype(rows.dtype)) @ params["embedding"].astype(rows.dtype)
        return jnp.square(
            jnp.tanh(y + params["bias"].astype(rows.dtype)[None]) @ params["kernel"].astype(rows.dtype)
        ).sum()

    if whole is None:
        return jax.grad(loss)(params)
    return whole.scatter(jax.grad(loss)(whole.gather(params)))


def places(params):
    return jax.tree.map(lambda leaf: leaf.sharding, params)


def test_gradients_are_those_of_parameters_in_parts_and_lie_where_they_do(mesh, params):
    rows = jax.device_put(np.random.default_rng(0).normal(size=(16, WIDTH)).astype(np.float32), rows_sharding(mesh))
    found = jax.jit(lambda p, r: gradients(p, r, WholeParams(places(params), jnp.float32)))(params, rows)
    expected = jax.jit(gradients)(jax.device_get(params), jax.device_get(rows))
    for name, leaf in found.items():
        assert leaf.sharding.is_equivalent_to(params[name].sharding, leaf.ndim) and leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max())


def test_a_kernel_that_is_used_twice_is_gathered_once_in_the_computing_type(mesh, params):
    rows = jax.ShapeDtypeStruct((16, WIDTH), jnp.bfloat16, sharding=rows_sharding(mesh))
    whole = WholeParams(places(params), jnp.bfloat16)
    found = jax.jit(lambda p, r: whole.gather(p))(params, jnp.zeros((16, WIDTH)))
    assert {name: leaf.dtype for name, leaf in found.items()} == {
        "kernel": jnp.bfloat16,
        "embedding": jnp.float32,  # layers take rows of it, and cast those
        "bias": jnp.float32,
    }
    assert all(leaf.is_fully_replicated for leaf in found.values())
    text = jax.jit(lambda p, r: gradients(p, r, whole)).lower(params, rows).compile().as_text()
    gathers = re.findall(r"all-gather[\w.\-]* = \(?\w+\[[\d,]*\]", text)
    assert len([line for line in gathers if f"[{WIDTH},{WIDTH}]" in line]) == 2, gathers  # kernel and embedding


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((3, 3, 320, 640), P(None, None, "fsdp", None)),
        ((1024, 4096), P("fsdp", None)),
        ((3, 3, 1280, 4), P()),  # small
        ((77, 1024), P(None, "fsdp")),  # the last axis where no other can be cut
        ((4, 3, 17, 1024), P("fsdp", None, None, None)),
        ((1024,), P()),
    ],
)
def test_parameters_are_cut_along_the_axis_before_the_last(mesh, shape, spec):
    assert param_shardings({"x": jax.ShapeDtypeStruct(shape, jnp.float32)}, mesh)["x"].spec == spec


def test_parameters_of_bfloat16_are_gathered_as_such_and_their_gradients_are_float32(mesh, params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    rows = jax.device_put(np.random.default_rng(0).normal(size=(16, WIDTH)).astype(np.float32), rows_sharding(mesh))
    whole = WholeParams(places(half), jnp.float32)
    sent = [e for e in jax.make_jaxpr(whole.gather)(half).eqns if e.primitive.name == "sharding_constraint"]
    assert [e.invars[0].aval.dtype for e in sent] == [jnp.bfloat16] * 2  # kernel and embedding
    found = jax.jit(lambda p, r: gradients(p, r, whole))(half, rows)
    expected = jax.jit(gradients)(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), half), jax.device_get(rows))
    for name, leaf in found.items():
        assert leaf.sharding.is_equivalent_to(half[name].sharding, leaf.ndim) and leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max())
