"""Random bits that have an address, and rounding that keeps the mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.training import adam_8bit, ema, stochastic_rounding
from flaxdream.training.adam_8bit import scale_by_adam_8bit
from flaxdream.training.ema import init_ema, update_ema
from flaxdream.training.step import init_state, make_train_step
from flaxdream.training.stochastic_rounding import OF_PARAMS, apply_updates, random_bits, to_bfloat16


def test_bits_depend_on_step_stream_and_index_alone():
    bits = random_bits((6, 8), jnp.int32(3), 2)
    assert jnp.array_equal(bits.ravel(), random_bits((48,), jnp.int32(3), 2))
    assert not jnp.array_equal(bits, random_bits((6, 8), jnp.int32(4), 2))
    assert not jnp.array_equal(bits, random_bits((6, 8), jnp.int32(3), 1))
    assert jnp.array_equal(bits[:, 2:5], random_bits((6, 8), jnp.int32(3), 2, (jnp.int32(2), 3)))


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


def test_float32_parameters_move_as_optax_moves_them():
    params = {"a": jnp.float32([1.0, -2.5]), "b": {"c": jnp.full((3, 4), 0.1)}}
    updates = jax.tree.map(lambda p: p * 1e-3 + 1e-5, params)
    found, wanted = apply_updates(params, updates, jnp.int32(3)), optax.apply_updates(params, updates)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))


def constant_gradients(rate):
    """A train step whose every parameter moves by -rate, whatever it is."""
    optimizer = optax.sgd(rate)

    def loss_of_rows(params, frozen, rows, key_b):
        return jnp.broadcast_to(sum(p.sum() for p in jax.tree.leaves(params)), rows["row"].shape)

    rows = {"row": jnp.arange(2), "weight": jnp.ones(2)}
    return optimizer, jax.jit(make_train_step(loss_of_rows, optimizer, seed=0)), rows


def test_many_small_steps_move_the_mean_as_far_as_in_float32_where_nearest_rounding_stands_still():
    rate, steps, start = 2e-6, 500, {"kernel": jnp.full((64, 128), 0.03), "bias": jnp.full((512,), -1.25)}
    optimizer, step, rows = constant_gradients(rate)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), start)
    nearest = jax.tree.map(lambda p: p + jnp.asarray(-rate, p.dtype), half)
    assert all(jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(nearest), jax.tree.leaves(half), strict=True))
    state = init_state(half, optimizer)
    for _ in range(steps):
        state, _ = step(state, {}, rows)
    for name, leaf in state["params"].items():
        assert leaf.dtype == jnp.bfloat16
        moved = np.asarray(leaf, np.float64) - np.asarray(half[name], np.float64)
        # Each of n elements takes steps of one unit in the last place with probability rate / unit.
        unit = np.abs(np.asarray(jnp.nextafter(half[name], jnp.bfloat16(0)) - half[name], np.float64)).max()
        deviation = np.sqrt(steps * rate * unit / moved.size)
        assert abs(moved.mean() + steps * rate) < 4 * deviation < 0.5 * steps * rate


def test_parameters_are_rounded_alike_on_one_device_and_on_eight():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    draw = np.random.default_rng(0).standard_normal
    params = {"a": jnp.asarray(draw((64, 24)), jnp.bfloat16), "b": jnp.asarray(draw(40), jnp.bfloat16)}
    updates = {"a": jnp.float32(draw((64, 24)) * 1e-4), "b": jnp.float32(draw(40) * 1e-4)}
    alone = jax.jit(apply_updates)(params, updates, jnp.int32(7))
    places = {"a": NamedSharding(mesh, P("fsdp")), "b": NamedSharding(mesh, P())}
    placed, moves = jax.device_put((params, updates), (places, places))
    spread = jax.jit(apply_updates, out_shardings=places)(placed, moves, jnp.int32(7))
    for name in params:
        assert alone[name].dtype == jnp.bfloat16 and not np.array_equal(alone[name], params[name])
        assert np.array_equal(np.asarray(alone[name], np.float32), np.asarray(spread[name], np.float32))


def test_no_bits_of_the_parameters_are_those_of_the_average_or_of_8_bit_adam(monkeypatch):
    asked = []

    def noted(shape, step, stream, columns=None):
        asked.append((int(step), stream))
        return random_bits(shape, step, stream, columns)

    for module in (adam_8bit, ema, stochastic_rounding):
        monkeypatch.setattr(module, "random_bits", noted)
    params = {str(number): jnp.ones((32, 128), jnp.bfloat16) for number in range(3)}
    adam, average = scale_by_adam_8bit(0.9, 0.999, 1e-8), init_ema(params, jnp.bfloat16)
    moments = adam.init(params)
    others = []
    for step in range(3):
        updates, moments = adam.update(jax.tree.map(lambda p: p.astype(jnp.float32), params), moments)
        average = update_ema(average, params)
        others, asked = others + asked, []
        apply_updates(params, updates, jnp.int32(step))
        assert len(set(asked)) == 3 and not set(asked) & set(others)
        others, asked = others + asked, []
    # What is hashed is step * 0x9E3779B9 + stream, modulo 2^32: no two streams meet within 100,000 steps either.
    step_of_one = pow(0x9E3779B9, -1, 2**32)
    for difference in range(OF_PARAMS - 4096, OF_PARAMS + 4096):
        steps = difference * step_of_one % 2**32
        assert min(steps, 2**32 - steps) > 100_000
