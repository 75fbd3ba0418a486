"""Schedules against diffusers' DDPM and DDIM schedulers, and the numbers they are made of."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_snr
from hypothesis import given
from hypothesis import strategies as st

from flaxdream.diffusion.schedule import (
    alpha_bar_from_config,
    betas_from_config,
    sigmas,
    snr,
    zero_terminal_snr_betas,
)

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = [
    {},
    {"beta_schedule": "linear", "beta_start": 0.0015, "beta_end": 0.0195},
    STABLE_DIFFUSION,
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": np.linspace(0.001, 0.3, 7).tolist(), "num_train_timesteps": 7},
]
LENGTHS = [2, 3, 10, 37, 1000]


def with_length(config, length):
    return config if "trained_betas" in config else config | {"num_train_timesteps": length}


@pytest.mark.parametrize("length", [1, *LENGTHS])
@pytest.mark.parametrize("config", SCHEDULES)
@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
def test_betas_and_alpha_bar_equal_diffusers(scheduler, config, length):
    config = with_length(config, length)
    twin = getattr(diffusers, scheduler)(**config)
    betas, alpha_bar = betas_from_config(config), alpha_bar_from_config(config)
    assert betas.dtype == alpha_bar.dtype == np.float32
    np.testing.assert_allclose(betas, twin.betas.numpy(), rtol=1e-6, atol=0)
    np.testing.assert_allclose(alpha_bar, twin.alphas_cumprod.numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("config", SCHEDULES)
def test_rescaled_alpha_bar_equals_diffusers_and_ends_at_exactly_zero(config, length):
    config = with_length(config, length) | {"rescale_betas_zero_snr": True}
    twin = diffusers.DDIMScheduler(**config)
    alpha_bar = alpha_bar_from_config(config)
    assert alpha_bar[-1] == 0 and betas_from_config(config)[-1] == 1
    # Beside 1e-6 relative, sqrt(alpha_bar) may differ by a unit in the last place of the numbers below 1/2
    # that are subtracted there: torch's float32 square root (MKL's) is not always the correctly rounded one.
    root = np.sqrt(alpha_bar)
    np.testing.assert_allclose(root, twin.alphas_cumprod.sqrt().numpy(), rtol=1e-6, atol=2**-25)


@pytest.mark.parametrize("rescale", [False, True])
def test_the_config_that_diffusers_saves_gives_its_noise_levels(rescale):
    twin = diffusers.EulerDiscreteScheduler(**STABLE_DIFFUSION, rescale_betas_zero_snr=rescale)
    alpha_bar = alpha_bar_from_config(dict(twin.config))
    # Not the last six: Euler puts 2**-24 for the 0, and the five before it carry the square root's rounding.
    np.testing.assert_allclose(alpha_bar[:-6], twin.alphas_cumprod.numpy()[:-6], rtol=1e-6, atol=0)
    if not rescale:
        np.testing.assert_allclose(sigmas(alpha_bar)[::-1], twin.sigmas.numpy()[:-1], rtol=1e-6, atol=0)


# 2026-08: torch 2.13 tensors and numpy 2 in diffusers' own constructors.
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize(
    "scheduler",
    ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
     "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler"],
)  # fmt: skip
def test_missing_keys_take_the_defaults_of_the_class(scheduler):
    twin = getattr(diffusers, scheduler)()
    assert np.array_equal(betas_from_config({"_class_name": scheduler}), twin.betas.numpy())


def test_keys_that_are_null_count_as_missing():
    config = {"trained_betas": None, "beta_start": None, "rescale_betas_zero_snr": None}
    assert np.array_equal(betas_from_config(config), betas_from_config({}))


def test_rescaling_twice_changes_nothing_more():
    once = zero_terminal_snr_betas(betas_from_config(STABLE_DIFFUSION))
    np.testing.assert_allclose(zero_terminal_snr_betas(once), once, rtol=1e-3, atol=1e-7)


def test_snr_equals_diffusers_compute_snr():
    twin = diffusers.DDPMScheduler(**STABLE_DIFFUSION)
    expected = compute_snr(twin, torch.arange(1000)).numpy()
    np.testing.assert_allclose(snr(alpha_bar_from_config(STABLE_DIFFUSION)), expected, rtol=1e-6)


@given(st.floats(1e-6, 1 - 1e-6))
def test_snr_is_signal_over_noise_and_one_over_sigma_squared(alpha_bar):
    assert snr(alpha_bar) == pytest.approx(alpha_bar / (1 - alpha_bar), rel=1e-6)
    assert snr(alpha_bar) * sigmas(np.float64(alpha_bar)) ** 2 == pytest.approx(1, rel=1e-6)


@given(st.floats(1e-5, 0.1), st.floats(1e-5, 0.5), st.integers(2, 200), st.booleans())
def test_alpha_bar_falls_from_below_one_and_stays_at_or_above_zero(start, end, length, rescale):
    config = {"beta_start": start, "beta_end": end, "num_train_timesteps": length}
    alpha_bar = alpha_bar_from_config(config | {"rescale_betas_zero_snr": rescale})
    assert np.all(np.diff(alpha_bar) <= 0) and alpha_bar[0] < 1 and alpha_bar[-1] >= 0
    assert alpha_bar[0] == pytest.approx(1 - start, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "'sigmoid'.*linear, scaled_linear, squaredcos_cap_v2, or trained_betas"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"num_train_timesteps": 10.0}, "num_train_timesteps is 10.0"),
        ({"beta_start": "1e-4"}, "beta_start is '1e-4'"),
        ({"beta_end": 1.5}, "beta_end is 1.5"),
        ({"trained_betas": [[0.1]]}, "flat, non-empty list"),
        ({"trained_betas": [0.1, -0.1]}, "numbers from 0 to 1"),
        ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 3}, "2 entries but num_train_timesteps is 3"),
        ({"rescale_betas_zero_snr": "yes"}, "expected true or false"),
        ({"rescale_betas_zero_snr": True, "num_train_timesteps": 1}, "at least two noise levels"),
        ({"rescale_betas_zero_snr": True, "trained_betas": [0.1, 0.0]}, "last beta is 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_its_value(config, message):
    with pytest.raises(ValueError, match=message):
        alpha_bar_from_config(config)
