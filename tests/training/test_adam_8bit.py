"""8-bit moments: what rounding may do, what it may not, and that training goes as with float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdream.models import build
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.training import adam_8bit
from flaxdream.training.adam import scale_by_adam
from flaxdream.training.adam_8bit import (
    _largest_ratio,
    _level,
    _real_code,
    block_size,
    dequantise,
    quantise,
    scale_by_adam_8bit,
)
from flaxdream.training.learning_rate import make_schedule
from flaxdream.training.mesh import make_mesh, param_shardings
from flaxdream.training.optimizer import make_optimizer
from flaxdream.training.state_shardings import state_shardings
from flaxdream.training.stochastic_rounding import random_bits

SHAPE, BLOCK = (128, 48), 64
VALUES = np.random.default_rng(0).standard_normal(SHAPE) * 10 ** np.random.default_rng(1).uniform(-4, 0, SHAPE)
VALUES = np.float32(VALUES)


def there_and_back(x, signed, step=0):
    bits = random_bits(x.shape, jnp.int32(step), 0) & 0xFFFF
    return np.asarray(dequantise(quantise(jnp.asarray(x), bits, BLOCK, signed=signed), signed=signed))


@pytest.mark.parametrize("bits", [7, 8])
def test_levels_rise_from_zero_and_every_code_is_found_again(bits):
    codes = jnp.arange(2**bits)
    levels = np.asarray(_level(codes, bits))
    assert levels[0] == 0 and levels[1] == 8.0**-bits and levels[-1] == 1 - 0.875 / 2 ** (bits - 1)
    assert (np.diff(levels) > 0).all()
    np.testing.assert_allclose(_real_code(jnp.asarray(levels), bits), codes, atol=2e-5)
    middles = jnp.asarray((levels[1:] + levels[:-1]) / 2)
    np.testing.assert_allclose(_real_code(middles, bits), codes[:-1] + 0.5, atol=2e-5)


def level_width(x, signed):
    """The distance of the levels around each element: 7/64 of the lower end of the largest octave of 8 (7/128 if
    unsigned), twice that share in the next one, and so on.
    """
    largest = np.abs(x).reshape(2, BLOCK, -1).max(axis=1).repeat(BLOCK, axis=0)
    octave = np.ceil(np.log(np.abs(x) / largest) / np.log(8) + 1e-6)
    return largest * 8.0 ** (octave - 1) * 7 / 2 ** (octave + (6 if signed else 7))


@pytest.mark.parametrize("signed", [True, False])
def test_an_element_is_off_by_less_than_one_level(signed):
    x = VALUES if signed else np.abs(VALUES)
    found = there_and_back(x, signed)
    assert (np.abs(found - x) <= 1.02 * level_width(x, signed)).all()
    assert (found * x >= 0).all()


@pytest.mark.parametrize("signed", [True, False])
def test_the_largest_of_a_block_keeps_its_value_and_zeros_stay_zeros(signed):
    x = VALUES * (np.random.default_rng(2).random(SHAPE) < 0.5)
    x = x if signed else np.abs(x)
    x[:BLOCK, 0] = 0  # a whole block
    found = there_and_back(x, signed)
    assert (found[x == 0] == 0).all()
    blocks, found_blocks = x.reshape(2, BLOCK, -1), found.reshape(2, BLOCK, -1)
    at = np.abs(blocks).argmax(axis=1)[:, None]
    np.testing.assert_allclose(np.take_along_axis(found_blocks, at, 1), np.take_along_axis(blocks, at, 1), rtol=1e-6)


@pytest.mark.parametrize("signed", [True, False])
def test_rounding_keeps_the_mean(signed):
    x = VALUES if signed else np.abs(VALUES)
    rounds = jax.jit(lambda i: there_and_back_traced(jnp.asarray(x), signed, i))
    drawn = np.stack([rounds(i) for i in range(200)]).astype(np.float64)
    standard_error = 0.5 * level_width(x, signed) / np.sqrt(len(drawn))  # at most, half way between two levels
    error = np.abs(drawn.mean(axis=0) - x)
    above = np.abs(x) > 1e-6  # what is unsigned and below the lowest level becomes that level, not 0
    assert (error < 5 * standard_error + 1e-6 * np.abs(x))[above].all()


def there_and_back_traced(x, signed, step):
    bits = random_bits(x.shape, step, 0) & 0xFFFF
    return dequantise(quantise(x, bits, BLOCK, signed=signed), signed=signed)


def test_a_second_moment_above_zero_never_becomes_zero_under_a_first_moment():
    x = np.full(SHAPE, 1e-12, np.float32)
    x[0] = 1.0
    assert there_and_back(x, signed=False).min() > 0


@pytest.mark.parametrize("largest", [1e-30, 1e-37, 1e-38, 3e38])
def test_very_small_and_very_large_blocks_stay_finite(largest):
    x = np.float32(VALUES / np.abs(VALUES).max() * largest)
    assert np.isfinite(there_and_back(x, signed=True)).all()


def test_blocks_do_not_cross_the_borders_of_eight_equal_parts_where_that_is_possible():
    sizes = {
        (3, 3, 320, 320): 40,
        (1280, 5120): 160,
        (768, 768): 96,
        (10240, 1280): 256,
        (100, 100): 100,
    }
    assert {shape: block_size(shape) for shape in sizes} == sizes
    assert all((shape[-2] // 8) % size == 0 for shape, size in sizes.items() if shape[-2] % 8 == 0)
    assert block_size((10240,)) is None  # vectors, small tensors and sizes without a divisor stay float32
    assert block_size((63, 64)) is None
    assert block_size((77, 768)) is None  # two codes share a uint16
    assert block_size((4, 1280)) is None
    assert block_size((257, 64)) is None


def test_no_leaf_is_of_single_bytes_which_tpus_cannot_copy_to_the_host():
    state = jax.eval_shape(make_optimizer("adamw8bit", make_schedule("constant", 1.0)).init, {"w": jnp.ones((320, 64))})
    assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(state)} == {2, 4}
    assert state.rules.m["w"].codes.shape == (160, 64)


@pytest.mark.parametrize("architecture", ["sd15", "sd21"])
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_the_state_of_stable_diffusion_takes_under_2_1_bytes_a_parameter(architecture, component):
    shapes = build(ARCHITECTURES[architecture][component]).shapes
    state = jax.eval_shape(make_optimizer("adamw8bit", make_schedule("constant", 1.0)).init, shapes)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert size / sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 2.1


def losses(direction, learning_rate, steps=400):
    """A two-layer network on inputs whose sizes span three decades, from the same start and batches."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1024, 64))
    y = np.tanh(x @ random.standard_normal((64, 64)) / 8) @ random.standard_normal((64, 64)) / 8
    x, y = jnp.float32(x * 10 ** random.uniform(-3, 0, 64)), jnp.float32(y)
    params = {name: jnp.float32(random.standard_normal((64, 64)) / 8) for name in ("first", "second")}

    def loss(params, x, y):
        return jnp.mean((jnp.tanh(x @ params["first"]) @ params["second"] - y) ** 2)

    def step(carry, i):
        params, state = carry
        rows = jax.random.randint(jax.random.fold_in(jax.random.key(0), i), (128,), 0, 1024)
        updates, state = direction.update(jax.grad(loss)(params, x[rows], y[rows]), state)
        rate = learning_rate * (1 - i / steps)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        return (params, state), loss(params, x, y)

    return jax.jit(lambda: jax.lax.scan(step, (params, direction.init(params)), jnp.arange(steps))[1])()


@pytest.mark.parametrize("learning_rate", [1e-3, 1e-2])
def test_the_loss_falls_as_with_float32_moments(learning_rate):
    exact = losses(scale_by_adam(0.9, 0.999, 1e-8), learning_rate)
    found = losses(scale_by_adam_8bit(0.9, 0.999, 1e-8), learning_rate)
    assert exact[-1] < 0.7 * exact[0]
    np.testing.assert_allclose(found[50::50], exact[50::50], rtol=0.02)


@pytest.mark.parametrize("decades", [3, 7])
def test_moments_follow_gradients_that_grow_rare_and_small(decades):
    """Where rounding to nearest holds the second moment for ever, and where a lost one lets steps explode."""
    exact, found = scale_by_adam(0.9, 0.99, 1e-12), scale_by_adam_8bit(0.9, 0.99, 1e-12)
    size = jnp.float32(10 ** np.random.default_rng(0).uniform(-decades, 0, (64, 64)))

    def step(carry, i):
        key = jax.random.fold_in(jax.random.key(1), i)
        noise, rare = jax.random.normal(key, (64, 64)), jax.random.uniform(jax.random.fold_in(key, 1), (64, 64)) < 0.1
        grads = {"w": size * noise * jnp.where(i < 200, 1.0, 0.05 * rare)}
        one, exact_state = exact.update(grads, carry[0])
        other, found_state = found.update(grads, carry[1])
        return (exact_state, found_state), (jnp.abs(one["w"]).max(), jnp.abs(other["w"]).max())

    params = {"w": jnp.zeros((64, 64))}
    run = jax.jit(lambda: jax.lax.scan(step, (exact.init(params), found.init(params)), jnp.arange(700)))
    (exact_state, found_state), (exact_steps, found_steps) = run()
    roots = dequantise(found_state.root_v["w"], signed=False) / jnp.sqrt(exact_state.v["w"])
    assert 0.98 < jnp.median(roots) < 1.02
    if decades == 3:
        assert jnp.quantile(roots, 0.01) > 0.7 and jnp.quantile(roots, 0.99) < 1.4
        assert found_steps.max() < 1.4 * exact_steps.max()
    else:  # far below the largest of a block there are few levels, but no step that Adam could not take
        assert found_steps.max() < 0.1 / 0.1 / np.sqrt(1 - 0.81 / 0.99) * 1.01


@pytest.mark.parametrize("devices", [1, 4])
def test_columns_one_after_the_other_are_all_at_once(devices, monkeypatch):
    """As on TPUs, with a tensor in parts along its rows too; one tensor is in blocks but small, one is not."""
    mesh = make_mesh(devices, jax.devices()[:devices])
    rng = np.random.default_rng(0)
    shapes = {"wide": (3, 256, 640), "narrow": (64, 96), "bias": (640,)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    grads = [{name: np.float32(rng.standard_normal(shape)) for name, shape in shapes.items()} for _ in range(3)]
    direction = scale_by_adam_8bit(0.9, 0.999, 1e-8)

    def steps():
        shardings = param_shardings(jax.eval_shape(lambda: params), mesh)
        state = jax.device_put(
            direction.init(params), state_shardings(jax.eval_shape(direction.init, params), shardings)
        )
        for g in grads:
            out, state = jax.jit(direction.update)(jax.device_put(g, shardings), state)
            yield jax.tree.leaves(jax.device_get((out, state)))

    at_once = list(steps())
    monkeypatch.setattr(adam_8bit, "AT_ONCE", 2**17)
    assert adam_8bit._columns(shapes["wide"]) == 128
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda whole, tpu, default: tpu(whole))
    for found, expected in zip(steps(), at_once, strict=True):
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=1e-6)


def test_columns_are_whole_registers_that_divide_the_last_axis():
    assert [adam_8bit._columns(shape) for shape in ((1280, 1280), (3, 3, 1280, 640), (320, 320), (10**6, 192))] == [
        256, 128, 320, 192
    ]  # fmt: skip


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.9, 0.81), (0.95, 0.9), (0.0, 0.9)])
def test_the_bound_on_a_step_is_what_the_worst_gradients_reach(beta1, beta2):
    """The worst gradients of n steps grow by beta1 / beta2 a step."""
    for n in (1, 2, 7):
        grads = (beta1 / beta2) ** np.arange(n - 1.0, -1, -1)
        m, v = 0.0, 0.0
        for grad in grads:
            m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
        found = _largest_ratio(beta1, beta2, jnp.int32(n))
        np.testing.assert_allclose(found, m / np.sqrt(v), rtol=1e-5)
