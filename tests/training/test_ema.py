"""The moving average against diffusers' EMAModel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel

from flaxdream.training.ema import init_ema, update_ema

OPTIONS = [
    {},
    {"decay": 0.5},
    {"min_decay": 0.4},
    {"update_after_step": 7},
    {"use_ema_warmup": True},
    {"use_ema_warmup": True, "inv_gamma": 10.0, "power": 0.75, "update_after_step": 3, "decay": 0.6},
    {"decay": 0.999, "min_decay": 0.999},
]


def params_at(step):
    random = np.random.default_rng(step)
    return {"a": {"kernel": random.standard_normal((3, 4), np.float32)}, "b": random.standard_normal(5, np.float32)}


@pytest.mark.parametrize("options", OPTIONS)
def test_sixty_steps_equal_those_of_diffusers(options):
    tensors = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in jax.tree.leaves(params_at(0))]
    twin = EMAModel(tensors, **options)
    state = init_ema(params_at(0))
    update = jax.jit(lambda state, params: update_ema(state, params, **options))
    for step in range(1, 61):
        for tensor, leaf in zip(tensors, jax.tree.leaves(params_at(step)), strict=True):
            tensor.data = torch.tensor(leaf)
        twin.step(tensors)
        state = update(state, params_at(step))
        for found, expected in zip(jax.tree.leaves(state.params), twin.shadow_params, strict=True):
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)
    assert state.steps == 60


def test_the_share_of_what_is_new_keeps_its_digits_after_many_steps():
    state = init_ema({"p": jnp.zeros(1)})._replace(steps=jnp.int32(200_000))
    share = update_ema(state, {"p": jnp.ones(1)}, decay=0.99999).params["p"]
    np.testing.assert_allclose(share, 9 / (10 + 200_000), rtol=1e-6)


def test_the_first_average_is_a_copy_that_shares_no_memory():
    params = {"p": jnp.ones(4)}
    state = init_ema(params)
    assert state.params["p"].unsafe_buffer_pointer() != params["p"].unsafe_buffer_pointer()
    assert jnp.array_equal(update_ema(state, {"p": jnp.zeros(4)}).params["p"], jnp.zeros(4))


def test_a_bfloat16_average_follows_where_rounding_to_nearest_would_stand_still():
    options = {"decay": 0.999, "min_decay": 0.999}
    params = {"p": jnp.full(512, 1.5)}
    exact, half = init_ema({"p": jnp.ones(512)}), init_ema({"p": jnp.ones(512)}, jnp.bfloat16)
    update = jax.jit(lambda state: update_ema(state, params, **options))
    for _ in range(400):
        exact, half = update(exact), update(half)
    assert half.params["p"].dtype == jnp.bfloat16
    moved = jnp.mean(half.params["p"].astype(jnp.float32)) - 1
    np.testing.assert_allclose(moved, exact.params["p"][0] - 1, rtol=0.02)


def test_an_average_of_another_type_is_refused():
    with pytest.raises(ValueError, match="float16 is not supported. Supported: float32, bfloat16"):
        init_ema({"p": jnp.ones(1)}, jnp.float16)
