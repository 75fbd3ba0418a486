"""Clipping, groups and stops against torch; state that is float32, sharded like its parameters, and resumable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from flaxdream.training.learning_rate import make_schedule
from flaxdream.training.optimizer import clip_by_norm, evaluation_params, global_norm, make_optimizer
from flaxdream.training.optimizer_rules import OPTIMIZERS
from tests.training import twins

GROUPS = ("unet", "text_encoder")


def constant(learning_rate):
    return make_schedule("constant", learning_rate)


@pytest.mark.parametrize("max_grad_norm", [1e-3, 1.0, 1e3])
def test_clipping_is_that_of_torch_over_all_tensors_together(max_grad_norm):
    grads = twins.gradients(3)
    tensors = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in jax.tree.leaves(grads)]
    for tensor in tensors:
        tensor.grad = tensor.detach().clone()
    expected_norm = torch.nn.utils.clip_grad_norm_(tensors, max_grad_norm)
    norm = global_norm(grads)
    np.testing.assert_allclose(norm, expected_norm.numpy(), rtol=1e-6)
    for found, tensor in zip(jax.tree.leaves(clip_by_norm(grads, norm, max_grad_norm)), tensors, strict=True):
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-6)


def test_a_norm_below_the_limit_leaves_every_bit_as_it_is():
    grads = twins.gradients(0)
    clipped = clip_by_norm(grads, global_norm(grads), 100.0)
    assert jax.tree.all(jax.tree.map(np.array_equal, clipped, grads))


def test_clipped_adamw_with_a_schedule_takes_the_steps_of_torch():
    schedule = make_schedule("cosine", 1e-2, lr_warmup_steps=0, max_train_steps=70)
    found, state = twins.run_ours(make_optimizer("adamw", schedule, max_grad_norm=0.5), 60)
    make = lambda t: torch.optim.AdamW(t, lr=1e-2)  # noqa: E731
    twins.assert_same_path(found, twins.run_torch(make, 60, max_grad_norm=0.5, factor=twins.cosine(70)))
    assert state.steps == 60
    np.testing.assert_allclose(state.grad_norm, twins.norm(twins.gradients(59)), rtol=1e-6)


@pytest.mark.parametrize("max_grad_norm", [None, 0.0])
def test_without_a_limit_nothing_is_clipped(max_grad_norm):
    found, _ = twins.run_ours(make_optimizer("sgd", constant(1e-2), max_grad_norm=max_grad_norm), 5)
    twins.assert_same_path(found, twins.run_torch(lambda t: torch.optim.SGD(t, lr=1e-2), 5))


def torch_groups(tensors):
    """Leaves come sorted: text_encoder has one tensor, unet three."""
    return torch.optim.AdamW(
        [
            {"params": tensors[:1], "lr": 5e-3, "weight_decay": 0.2},
            {"params": tensors[1:], "lr": 1e-2, "weight_decay": 0.05},
        ]
    )


def test_groups_have_their_own_rate_and_decay_and_share_the_clipping():
    optimizer = make_optimizer(
        "adamw",
        {"unet": constant(1e-2), "text_encoder": constant(5e-3)},
        weight_decay={"unet": 0.05, "text_encoder": 0.2},
        max_grad_norm=0.5,
    )
    found, _ = twins.run_ours(optimizer, 50)
    twins.assert_same_path(found, twins.run_torch(torch_groups, 50, max_grad_norm=0.5))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_stopped_text_encoder_does_not_move_at_all(name):
    schedule = constant(1e-2)
    schedule = schedule if name == "prodigy" else dict.fromkeys(GROUPS, schedule)
    optimizer = make_optimizer(name, schedule, weight_decay=0.1, stop_steps={"text_encoder": 4})
    found, state = twins.run_ours(optimizer, 8)
    moved = {g: [not twins.equal(found[i][g], found[i + 1][g]) for i in range(7)] for g in GROUPS}
    assert moved == {"unet": [True] * 7, "text_encoder": [True] * 3 + [False] * 4}
    unet_norm = twins.norm(twins.gradients(7)["unet"])
    np.testing.assert_allclose(state.grad_norm, unet_norm, rtol=1e-6)  # as in torch: it has no gradient any more


def test_what_schedule_free_has_averaged_of_a_stopped_group_does_not_move_either():
    optimizer = make_optimizer("schedule_free", dict.fromkeys(GROUPS, constant(1e-2)), stop_steps={"text_encoder": 3})
    averages = []
    for steps in (3, 6):
        found, state = twins.run_ours(optimizer, steps)
        averages.append(evaluation_params(state, found[-1])["text_encoder"])
    assert twins.equal(*averages)


def test_the_steps_before_a_stop_are_those_without_one():
    schedules = dict.fromkeys(GROUPS, constant(1e-2))
    stopped, _ = twins.run_ours(make_optimizer("adamw", schedules, stop_steps={"text_encoder": 5}), 5)
    free, _ = twins.run_ours(make_optimizer("adamw", schedules), 5)
    assert twins.equal(stopped, free)


def test_schedule_free_is_evaluated_at_its_average_and_others_as_they_are():
    optimizer = make_optimizer("schedule_free", constant(1e-2), max_grad_norm=None, beta1=0.5)
    found, state = twins.run_ours(optimizer, 1)
    # After one step the average is z, the parameters after the whole step; what trains is there too.
    averaged = evaluation_params(state, found[-1])
    assert jax.tree.all(jax.tree.map(lambda x, z: np.allclose(x, z, atol=1e-7), averaged, state.rules.z))
    found, state = twins.run_ours(make_optimizer("adamw", dict.fromkeys(GROUPS, constant(1e-2))), 1)
    assert twins.equal(evaluation_params(state, found[-1]), found[-1])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_state_and_updates_are_float32_for_bfloat16_parameters_and_gradients(name):
    optimizer = make_optimizer(name, constant(1e-2))
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), twins.tree_of(0))
    state = jax.eval_shape(optimizer.init, half)
    updates, after = jax.eval_shape(optimizer.update, half, state, half)
    types = {leaf.dtype for leaf in jax.tree.leaves((state, updates, after))}
    assert types <= {jnp.dtype("float32"), jnp.dtype("int32"), jnp.dtype("uint8")}
    assert state == after


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_state_that_went_through_numpy_continues_bitwise_and_may_be_donated(name):
    schedule = make_schedule("linear", 1e-2, lr_warmup_steps=2, max_train_steps=20)
    schedule = schedule if name == "prodigy" else dict.fromkeys(GROUPS, schedule)
    optimizer = make_optimizer(name, schedule, weight_decay=0.1)
    params = {"unet": {"w": jnp.asarray(np.random.default_rng(0).standard_normal((64, 128), np.float32))}}
    params["text_encoder"] = {"b": jnp.ones(3)}

    def step(params, state, i):
        grads = jax.tree.map(lambda p: jnp.sin(p * 50 + i), params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))

    def run(carried, steps):
        for i in steps:
            carried = step(*carried, i)
        return carried

    start = jax.tree.map(jnp.copy, params)
    unbroken = run((start, jax.jit(optimizer.init)(start)), range(6))
    first = run((params, jax.jit(optimizer.init)(params)), range(3))
    stored = jax.tree.map(np.asarray, first)
    assert twins.equal(run(jax.tree.map(jnp.asarray, stored), range(3, 6)), unbroken)


def test_groups_that_do_not_match_are_refused():
    schedules = dict.fromkeys(GROUPS, constant(1e-2))
    with pytest.raises(ValueError, match=r"schedules for \['unet'\], but the parameters' groups are \['text_enc"):
        make_optimizer("adamw", {"unet": constant(1e-2)}).init(twins.tree_of(0))
    with pytest.raises(ValueError, match=r"stop_steps is for \['vae'\], but the groups are"):
        make_optimizer("adamw", schedules, stop_steps={"vae": 3})
    with pytest.raises(ValueError, match=r"weight_decay is for \['unet'\]"):
        make_optimizer("adamw", schedules, weight_decay={"unet": 0.1})
    with pytest.raises(ValueError, match="need a mapping of schedules"):
        make_optimizer("adamw", constant(1e-2), stop_steps={"text_encoder": 3})
    with pytest.raises(ValueError, match="one step size for all parameters"):
        make_optimizer("prodigy", schedules)
