"""A step that says what memory it takes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.planning.told_step import ToldStep
from flaxdream.training.mesh import make_mesh, replicated, rows_sharding

WIDTH = 64


def step_and_arguments(rows=8):
    mesh = make_mesh(2)
    whole, cut = replicated(mesh), NamedSharding(mesh, P("fsdp", None))
    state = {
        "step": jax.device_put(jnp.int32(0), whole),
        "params": {"w": jax.device_put(jnp.ones((WIDTH, WIDTH)), cut)},
        "opt_state": (jax.device_put(jnp.zeros((WIDTH, WIDTH)), cut),),
    }
    places = jax.tree.map(lambda leaf: leaf.sharding, state)

    @partial(jax.jit, donate_argnums=0, out_shardings=(places, whole))
    def step(state, frozen, batch):
        loss, grad = jax.value_and_grad(lambda w: jnp.square(batch["x"] @ w @ frozen["v"]).mean())(state["params"]["w"])
        m = state["opt_state"][0] * 0.9 + grad
        new = {"step": state["step"] + 1, "params": {"w": state["params"]["w"] - 0.1 * m}, "opt_state": (m,)}
        return new, {"loss": loss}

    frozen = {"v": jax.device_put(jnp.ones((WIDTH, WIDTH), jnp.bfloat16).astype(jnp.float32), whole)}
    batch = {"x": jax.device_put(jnp.ones((rows, WIDTH)), rows_sharding(mesh))}
    return step, state, frozen, batch


def test_the_table_is_said_once_and_has_the_bytes_of_a_device():
    said = []
    step, state, frozen, batch = step_and_arguments()
    told = ToldStep(step, said.append)
    for _ in range(3):
        state, metrics = told(state, frozen, batch)
    (table,) = said
    lines = {line.strip().split("  ")[0]: line for line in table.splitlines()}
    for name, text in (("parameters", "8.00 KiB"), ("optimizer", "8.00 KiB"), ("what does not train", "16.00 KiB")):
        assert text in lines[name], table
    assert lines["batch, and two that wait"].endswith(" 768 B")
    assert int(state["step"]) == 3 and np.isfinite(metrics["loss"])


def test_its_steps_are_bit_for_bit_those_of_the_jitted_function():
    step, state, frozen, batch = step_and_arguments()
    told = ToldStep(step, lambda table: None)
    same = jax.tree.map(jnp.copy, state)
    for _ in range(2):
        state, _ = told(state, frozen, batch)
        same, _ = step(same, frozen, batch)
    np.testing.assert_array_equal(state["params"]["w"], same["params"]["w"])


def test_a_batch_of_another_shape_is_compiled_for_itself_and_told_of_if_it_needs_more():
    said = []
    step, state, frozen, batch = step_and_arguments()
    told = ToldStep(step, said.append)
    for rows in (16, 8, 16, 32, 32):
        _, _, _, batch = step_and_arguments(rows)
        state, _ = told(state, frozen, batch)
    assert int(state["step"]) == 5 and len(said) == 2
    assert said[1].startswith("memory of a device, for batches of another shape: ") and "\n" not in said[1]


def test_a_compile_ahead_for_the_same_shapes_is_used_and_changes_nothing():
    step, state, frozen, batch = step_and_arguments()
    same = jax.tree.map(jnp.copy, state)
    told = ToldStep(step, lambda table: None)
    told.compile_ahead(state, frozen, batch)
    told._compile = None  # whoever calls it fails
    state, _ = told(state, frozen, batch)
    same, _ = step(same, frozen, batch)
    np.testing.assert_array_equal(state["params"]["w"], same["params"]["w"])


@pytest.mark.parametrize("change", ["rows", "place", "more"])
def test_a_compile_ahead_for_other_arguments_is_not_used(change):
    step, state, frozen, batch = step_and_arguments()
    told = ToldStep(step, lambda table: None)
    expected = dict(batch)
    if change == "rows":
        expected = step_and_arguments(16)[3]
    elif change == "place":
        expected = {"x": jax.device_put(batch["x"], replicated(batch["x"].sharding.mesh))}
    else:
        expected["y"] = batch["x"]
    told.compile_ahead(state, frozen, expected)
    state, metrics = told(state, frozen, batch)
    assert int(state["step"]) == 1 and np.isfinite(metrics["loss"])


def test_the_errors_of_a_compile_ahead_come_with_the_first_step():
    _, state, frozen, batch = step_and_arguments()

    def refused(state, frozen, batch):
        raise ValueError("cannot be compiled")

    told = ToldStep(jax.jit(refused), lambda table: None)
    told.compile_ahead(state, frozen, batch)
    with pytest.raises(ValueError, match="cannot be compiled"):
        told(state, frozen, batch)
