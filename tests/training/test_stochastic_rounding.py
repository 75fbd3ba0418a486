"""Random bits that have an address, and rounding that keeps the mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.training.stochastic_rounding import random_bits, to_bfloat16


def test_bits_depend_on_step_stream_and_index_alone():
    bits = random_bits((6, 8), jnp.int32(3), 2)
    assert jnp.array_equal(bits.ravel(), random_bits((48,), jnp.int32(3), 2))
    assert not jnp.array_equal(bits, random_bits((6, 8), jnp.int32(4), 2))
    assert not jnp.array_equal(bits, random_bits((6, 8), jnp.int32(3), 1))


def test_bits_are_the_same_on_any_number_of_devices():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    sharded = jax.jit(lambda: random_bits((16, 8), jnp.int32(5), 0), out_shardings=NamedSharding(mesh, P("fsdp")))()
    assert np.array_equal(sharded, random_bits((16, 8), jnp.int32(5), 0))


def test_bits_are_even_in_every_place_and_independent_of_neighbours_steps_and_streams():
    draws = [np.asarray(random_bits((100, 200), jnp.int32(step), stream)) for step, stream in [(0, 0), (1, 0), (0, 1)]]
    places = np.stack([(draws[0] >> place) & 1 for place in range(32)]).reshape(32, -1)
    assert np.abs(places.mean(axis=1) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(places) - np.eye(32)).max() < 0.04
    low, high = draws[0] & 0xFFFF, draws[0] >> 16
    others = [low[:, 1:], low[1:], high, draws[1] & 0xFFFF, draws[2] & 0xFFFF]
    ones = [low[:, :-1], low[:-1], low, low, low]
    assert max(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(ones, others, strict=True)) < 0.03


def test_bfloat16_keeps_the_mean():
    x = jnp.float32([1.0001, -3.3333, 0.02, 1e-20])
    rows = jnp.broadcast_to(x, (40_000, 4))
    rounded = np.asarray(to_bfloat16(rows, random_bits(rows.shape, jnp.int32(0), 0)), np.float64)
    assert len(np.unique(rounded[:, 0])) == 2
    np.testing.assert_allclose(rounded.mean(axis=0), x, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(width=16), st.integers(0, 2**32 - 1))
def test_what_is_a_bfloat16_already_or_not_finite_stays(value, bits):
    x = jnp.asarray(value, jnp.bfloat16)
    found = to_bfloat16(x.astype(jnp.float32), jnp.uint32(bits))
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(x, np.float32))
