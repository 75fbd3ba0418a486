"""States lie where their parameters lie, and sharded steps equal those on one device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.training.ema import init_ema
from flaxdream.training.learning_rate import make_schedule
from flaxdream.training.optimizer import make_optimizer
from flaxdream.training.state_shardings import state_shardings

SHAPES = {
    "unet": {"conv": {"kernel": (3, 3, 64, 128), "bias": (128,)}, "out": {"kernel": (256, 128)}},
    "text_encoder": {"0": {"kernel": (77, 64)}},
}
SPECS = {
    "unet": {"conv": {"kernel": P(None, None, None, "fsdp"), "bias": P()}, "out": {"kernel": P("fsdp", None)}},
    "text_encoder": {"0": {"kernel": P(None, ("data", "fsdp"))}},
}


@pytest.fixture(scope="module")
def shardings():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS)


def make_params():
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: random.standard_normal(shape, np.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )


def make(name):
    schedule = make_schedule("constant", 1e-2)
    schedule = schedule if name == "prodigy" else dict.fromkeys(SHAPES, schedule)
    return make_optimizer(name, schedule, weight_decay=0.1)


@pytest.mark.parametrize(
    "name", ["adamw", "adamw8bit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adafactor", "prodigy"))]
)
def test_sharded_steps_equal_those_on_one_device_and_keep_the_shardings(name, shardings):
    optimizer = make(name)

    def step(params, state, i):
        grads = jax.tree.map(lambda p: jnp.sin(p * 50 + i), params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = make_params()
    alone, state = params, jax.jit(optimizer.init)(params)
    lone_step = jax.jit(step)
    placed = jax.device_put(params, shardings)
    of_state = state_shardings(jax.eval_shape(optimizer.init, params), shardings)
    placed_state = jax.jit(optimizer.init, out_shardings=of_state)(placed)
    sharded_step = jax.jit(step, out_shardings=(shardings, of_state), donate_argnums=(0, 1))
    for i in range(3):
        alone, state = lone_step(alone, state, i)
        placed, placed_state = sharded_step(placed, placed_state, i)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(placed), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_moments_lie_as_their_parameters_and_counters_everywhere(shardings):
    of_state = state_shardings(jax.eval_shape(make("adamw").init, make_params()), shardings)
    assert of_state.rules["unet"].m == shardings["unet"] and of_state.rules["unet"].v == shardings["unet"]
    assert of_state.rules["text_encoder"].v == shardings["text_encoder"]
    assert of_state.steps.spec == P() and of_state.rules["unet"].steps.spec == P()


def test_8_bit_codes_lie_as_their_parameters_and_scales_where_they_can(shardings):
    shapes = jax.eval_shape(make("adamw8bit").init, make_params())
    of_state = state_shardings(shapes, shardings)
    moments = of_state.rules["unet"].m
    assert moments["out"]["kernel"].codes.spec == P("fsdp", None) == moments["out"]["kernel"].scale.spec
    assert shapes.rules["unet"].m["out"]["kernel"].scale.shape == (8, 128)
    assert moments["conv"]["kernel"].scale.spec == P(None, None, None, "fsdp")
    shapes = {"w": jax.ShapeDtypeStruct((3, 128), jnp.float32)}
    assert state_shardings(shapes, {"w": shardings["unet"]["out"]["kernel"]})["w"].spec == P(None, None)


def test_adafactors_rows_and_columns_lie_everywhere(shardings):
    of_state = state_shardings(jax.eval_shape(make("adafactor").init, make_params()), shardings)
    assert of_state.rules["unet"].second_moment.v_row["out"]["kernel"].spec == P()


def test_a_whole_train_state_lies_as_its_parameters(shardings):
    params = make_params()
    shapes = jax.eval_shape(
        lambda: {"step": 0, "params": params, "ema": init_ema(params), "opt": make("lion").init(params)}
    )
    of_state = state_shardings(shapes, shardings)
    assert of_state["params"] == shardings == of_state["ema"].params
    assert of_state["opt"].rules["unet"].mu == shardings["unet"]
    assert of_state["step"].spec == P() == of_state["ema"].steps.spec
