"""The forward process against diffusers' DDPMScheduler, and the algebra of eps, v and x0."""

from __future__ import annotations

import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_dream_and_update_latents
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxdream.diffusion import process
from flaxdream.diffusion.schedule import alpha_bar_from_config

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
T_B = np.array([0, 400, 999])


def rows(seed, shape=(3, 5, 4, 2), dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((2, *shape)).astype(dtype)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (3, 7), (3,)])
def test_noisy_samples_and_velocities_equal_diffusers_at_any_rank(shape, rescale):
    config = CONFIG | {"rescale_betas_zero_snr": rescale}
    twin, alpha_bar_b = diffusers.DDPMScheduler(**config), alpha_bar_from_config(config)[T_B]
    x0, eps = rows(0, shape)
    tensors = torch.tensor(x0), torch.tensor(eps), torch.tensor(T_B)
    np.testing.assert_allclose(
        process.add_noise(x0, eps, alpha_bar_b), twin.add_noise(*tensors).numpy(), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(
        process.v_from_x0_eps(x0, eps, alpha_bar_b), twin.get_velocity(*tensors).numpy(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("prediction_type", process.PREDICTION_TYPES)
def test_the_target_of_each_prediction_type_gives_x0_and_eps_back(prediction_type):
    x0, eps = rows(1)
    alpha_bar_b = jnp.array([0.9, 0.5, 0.1])
    x_t = process.add_noise(x0, eps, alpha_bar_b)
    output = process.target(prediction_type, x0, eps, alpha_bar_b)
    np.testing.assert_allclose(process.x0_from_output(prediction_type, x_t, output, alpha_bar_b), x0, atol=1e-6)
    np.testing.assert_allclose(process.eps_from_output(prediction_type, x_t, output, alpha_bar_b), eps, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.lists(st.floats(1e-5, 1 - 1e-5), min_size=3, max_size=3))
def test_every_conversion_undoes_its_inverse(seed, alpha_bars):
    # In float64: x0 from eps divides by sqrt(alpha_bar), which magnifies float32's rounding 300 times at 1e-5.
    with jax.enable_x64(True):
        x0, eps = jnp.asarray(rows(seed, dtype=np.float64))
        a_b = jnp.asarray(alpha_bars)
        x_t, v = process.add_noise(x0, eps, a_b), process.v_from_x0_eps(x0, eps, a_b)
        pairs = [
            (process.x0_from_eps(x_t, eps, a_b), x0), (process.eps_from_x0(x_t, x0, a_b), eps),
            (process.eps_from_x0(x_t, process.x0_from_eps(x_t, eps, a_b), a_b), eps),
            (process.x0_from_v(x_t, v, a_b), x0), (process.eps_from_v(x_t, v, a_b), eps),
            (process.v_from_eps(x_t, eps, a_b), v), (process.v_from_x0(x_t, x0, a_b), v),
        ]  # fmt: skip
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_x_t_and_v_are_a_rotation_of_x0_and_eps_at_every_noise_level(seed, alpha_bars):
    (x0, eps), a_b = rows(seed), np.asarray(alpha_bars, np.float32)
    x_t, v = process.add_noise(x0, eps, a_b), process.v_from_x0_eps(x0, eps, a_b)
    np.testing.assert_allclose(x_t**2 + v**2, x0**2 + eps**2, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(process.x0_from_v(x_t, v, a_b), x0, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(process.eps_from_v(x_t, v, a_b), eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("power", [1.0, 2.5])
def test_dream_moves_sample_and_noise_as_diffusers_does(power):
    twin, alpha_bar_b = diffusers.DDPMScheduler(**CONFIG), alpha_bar_from_config(CONFIG)[T_B]
    (x0, eps), guess = rows(1), rows(2)[0]
    x_t = np.array(process.add_noise(x0, eps, alpha_bar_b))
    ours = process.dream(x_t, eps, guess, alpha_bar_b, power)
    theirs = compute_dream_and_update_latents(
        lambda *_: types.SimpleNamespace(sample=torch.from_numpy(guess)),
        twin, torch.from_numpy(T_B), *map(torch.from_numpy, (eps, x_t, eps)), None, power,
    )  # fmt: skip
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(found), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_one_alpha_bar_for_all_rows_equals_the_same_one_in_each_row():
    x0, eps = rows(2)
    assert jnp.array_equal(
        process.add_noise(x0, eps, jnp.float32(0.3)), process.add_noise(x0, eps, jnp.full(3, 0.3, jnp.float32))
    )


def test_bfloat16_samples_keep_a_float32_alpha_bar():
    x0, eps = jnp.asarray(rows(3), jnp.bfloat16)
    alpha_bar_b = jnp.array([0.999, 0.5, 0.001])
    exact = process.add_noise(x0.astype(jnp.float32), eps.astype(jnp.float32), alpha_bar_b)
    np.testing.assert_allclose(process.add_noise(x0, eps, alpha_bar_b), exact, rtol=1e-6, atol=1e-6)


def test_alpha_bars_of_another_batch_size_are_refused():
    x0, eps = rows(4)
    with pytest.raises(ValueError, match=r"expected shape \(3,\) or \(\), got \(1,\)"):
        process.add_noise(x0, eps, jnp.ones(1))


def test_an_unknown_prediction_type_is_refused_with_the_supported_ones():
    x0, eps = rows(5)
    for function in (process.target, process.x0_from_output, process.eps_from_output):
        with pytest.raises(ValueError, match="'flow'.*epsilon, v_prediction, sample"):
            function("flow", x0, eps, jnp.ones(3))
