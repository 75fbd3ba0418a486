"""Loss scaling against torch.amp.GradScaler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flaxdream.training.loss_scale import choose, init_loss_scale, unscale, update_loss_scale


@pytest.mark.parametrize("interval", [3, 2000])
def test_the_scale_moves_as_that_of_torch(interval):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", growth_interval=interval)
    scale = init_loss_scale()
    update = jax.jit(lambda scale, finite: update_loss_scale(scale, finite, growth_interval=interval))
    broken = np.random.default_rng(0).random(60) < 0.2
    for is_broken in broken:
        optimizer.zero_grad()
        scaler.scale((weight * (float("inf") if is_broken else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        grads = {"w": jnp.ones(2) * scale.value * (jnp.inf if is_broken else 1.0)}
        _, finite = unscale(grads, scale)
        assert bool(finite) != is_broken
        scale = update(scale, finite)
        assert float(scale.value) == scaler.get_scale()


def test_the_first_scale_and_the_growth_after_2000_steps_are_those_of_torch():
    scale = init_loss_scale()
    assert float(scale.value) == torch.amp.GradScaler("cpu")._init_scale == 65536
    scale = update_loss_scale(scale._replace(finite_steps=jnp.int32(1998)), jnp.array(True))
    assert float(scale.value) == 65536
    scale = update_loss_scale(scale, jnp.array(True))
    assert float(scale.value) == 131072 and scale.finite_steps == 0


def test_a_scale_never_grows_to_infinity():
    scale = update_loss_scale(init_loss_scale(2.0**127), jnp.array(True), growth_interval=1)
    assert float(scale.value) == 2.0**127 and scale.finite_steps == 0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_element_that_is_not_finite_is_seen(bad):
    scale = init_loss_scale(4.0)
    fine = {"a": jnp.full((2, 3), 8.0, jnp.float16), "b": jnp.ones(3)}
    grads, finite = unscale(fine, scale)
    assert finite and grads["a"].dtype == jnp.float32 and float(grads["a"][0, 0]) == 2
    _, finite = unscale(fine | {"a": fine["a"].at[1, 2].set(bad)}, scale)
    assert not finite


def test_a_skipped_step_changes_no_bit():
    old = {"p": jnp.ones(3), "steps": jnp.int32(4)}
    new = {"p": jnp.full(3, jnp.nan), "steps": jnp.int32(5)}
    kept = choose(jnp.array(False), new, old)
    assert jnp.array_equal(kept["p"], old["p"]) and kept["steps"] == 4
    assert choose(jnp.array(True), new, old)["steps"] == 5
