"""Rows one by one: the same results on any number of devices, and no device asks another for rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.models.own_rows import can_be_cut, on_own_rows, one_by_one


def run(shared, x):
    """Two results of the rows, as a VAE's mean and log variance; it sees one row at a time."""
    assert x.shape[0] == 1
    y = jnp.tanh(x @ shared["kernel"])
    return y, y.sum(-1)


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0).standard_normal
    return {"kernel": jnp.float32(draw((6, 5)))}, jnp.float32(draw((16, 3, 6)))


def whole(shared, x):
    y = jnp.tanh(x @ shared["kernel"])
    return y, y.sum(-1)


def test_rows_one_by_one_give_what_all_at_once_do(arrays):
    for found, wanted in zip(jax.jit(lambda *a: one_by_one(run, *a))(*arrays), whole(*arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_each_device_takes_its_own_rows(arrays):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    places = NamedSharding(mesh, P()), NamedSharding(mesh, P(("data", "fsdp")))
    placed = jax.device_put(arrays, places)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda *a: one_by_one(run, *a)).lower(*placed).compile()
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce", "collective-permute"))
    for found, wanted in zip(compiled(*placed), whole(*arrays), strict=True):
        assert found.sharding.is_equivalent_to(places[1], found.ndim)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_where_each_device_has_its_own_rows_already_they_are_not_cut_again(arrays):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    seen = []

    def own(x):
        seen.append((x.shape[0], can_be_cut(x.shape[0])))
        return on_own_rows(jnp.sin, x)

    with jax.set_mesh(mesh):
        assert can_be_cut(16) and not can_be_cut(3)
        inside = jax.jit(jax.shard_map(own, in_specs=P("data"), out_specs=P("data")))(arrays[1])
        outside = jax.jit(lambda x: on_own_rows(jnp.sin, x))(arrays[1])
    assert not can_be_cut(16)  # no mesh is in use: nobody knows where rows lie
    assert set(seen) == {(2, True)}
    np.testing.assert_allclose(inside, np.sin(arrays[1]), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(inside, outside)
