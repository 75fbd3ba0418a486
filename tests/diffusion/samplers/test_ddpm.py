"""DDPM against diffusers' DDPMScheduler."""

from __future__ import annotations

import numpy as np
import pytest

from flaxdream.diffusion.samplers import make_sampler
from tests.diffusion.samplers.twin import (
    COSINE,
    LINEAR,
    STABLE_DIFFUSION,
    STEPS,
    Twin,
    assert_equal_trajectories,
    normal,
    trajectory,
)

DDPM = STABLE_DIFFUSION | {"_class_name": "DDPMScheduler", "clip_sample": False}
V_ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_ddpm_follows_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(DDPM | {"timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_ddpm_follows_diffusers_in_every_variance_type(variance, offset, steps):
    config = DDPM | {"variance_type": variance, "steps_offset": offset}
    assert_equal_trajectories(config, steps, variances=variance.startswith("learned"))


def test_fixed_large_log_is_fixed_large_and_nan_only_in_diffusers():
    config = DDPM | {"variance_type": "fixed_large_log"}
    noises = [normal(1, i) for i in range(10)]
    assert np.isnan(Twin(config, 10).trajectory(normal(0), noises)).any()
    ours, large = (
        trajectory(make_sampler(config | change, 10), normal(0), noises)
        for change in ({}, {"variance_type": "fixed_large"})
    )
    np.testing.assert_array_equal(ours, large)


@pytest.mark.parametrize(
    "options",
    [
        *(LINEAR, COSINE, {"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 0.7}),
        *({"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, V_ZERO_SNR),
        V_ZERO_SNR | {"prediction_type": "sample", "timestep_spacing": "linspace"},
        {"thresholding": True},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.3, "clip_sample": True},
        COSINE | {"variance_type": "fixed_large", "clip_sample": True},
    ],
)
@pytest.mark.parametrize("steps", [2, 20])
def test_ddpm_follows_diffusers_in_every_option(options, steps):
    assert_equal_trajectories(DDPM | options, steps)


@pytest.mark.parametrize(
    "options, draws",
    [
        ({"steps_offset": 1}, 10),  # ends at timestep 1
        ({"timestep_spacing": "linspace"}, 9),  # ends at timestep 0
        ({"timestep_spacing": "trailing"}, 10),
    ],
)
def test_noise_is_drawn_but_at_timestep_0(options, draws):
    twin = Twin(DDPM | options, 10)
    twin.trajectory(normal(0), [normal(1)] * 10)
    used = np.flatnonzero(make_sampler(DDPM | options, 10).plan.coefficients.noise)
    assert len(used) == draws
    assert twin.drew == used.tolist()


def test_a_single_step_at_timestep_0_needs_no_noise():
    assert not make_sampler(DDPM, 1).needs_noise


def test_learned_variance_needs_twice_the_channels():
    sampler = make_sampler(DDPM | {"variance_type": "learned"}, 2)
    state = sampler.init(normal(0))
    with pytest.raises(ValueError, match=r"output has shape \(2, 3, 4, 3\); DDPMScheduler expects \(2, 3, 4, 6\)"):
        sampler.step(state, 0, normal(0), normal(1))


@pytest.mark.parametrize("begin", [1, 9])
def test_ddpm_begins_in_the_middle_as_diffusers_does(begin):
    assert_equal_trajectories(DDPM, 10, begin=begin)
