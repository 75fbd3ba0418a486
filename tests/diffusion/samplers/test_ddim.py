"""DDIM against diffusers' DDIMScheduler."""

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

DDIM = STABLE_DIFFUSION | {"_class_name": "DDIMScheduler", "clip_sample": False}
V_ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_ddim_follows_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(DDIM | {"timestep_spacing": spacing}, steps)


@pytest.mark.parametrize(
    "options",
    [
        *(LINEAR, COSINE, {"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 0.7}),
        *({"set_alpha_to_one": False}, {"set_alpha_to_one": False, "steps_offset": 1}),
        *({"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, V_ZERO_SNR),
        V_ZERO_SNR | {"prediction_type": "sample", "timestep_spacing": "linspace"},
        {"rescale_betas_zero_snr": True},
        {"thresholding": True},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.3, "clip_sample": True},
        *({"eta": 0.3}, {"eta": 1.0}, {"eta": 0.5, "clip_sample": True} | COSINE),
        {"use_clipped_model_output": True, "clip_sample": True},
        {"use_clipped_model_output": True, "thresholding": True, "eta": 0.7, "prediction_type": "v_prediction"},
    ],
)
@pytest.mark.parametrize("steps", [2, 20])
def test_ddim_follows_diffusers_in_every_option(options, steps):
    step_options = {key: options[key] for key in ("eta", "use_clipped_model_output") if key in options}
    config = DDIM | {key: value for key, value in options.items() if key not in step_options}
    assert_equal_trajectories(config, steps, **step_options)


def test_noise_is_drawn_in_every_step_but_only_with_eta():
    assert not make_sampler(DDIM, 5).needs_noise
    assert make_sampler(DDIM, 5, eta=0.1).needs_noise
    twin = Twin(DDIM, 5, eta=0.1)
    twin.trajectory(normal(0), [normal(1)] * 5)
    assert twin.drew == [0, 1, 2, 3, 4]


def test_full_noise_at_zero_terminal_snr_is_finite_where_diffusers_rounds_to_nan():
    config = DDIM | V_ZERO_SNR | {"clip_sample": True}
    noises = [normal(1, i) for i in range(25)]
    assert np.isnan(Twin(config, 25, eta=1.0).trajectory(normal(0), noises)).any()
    assert np.isfinite(trajectory(make_sampler(config, 25, eta=1.0), normal(0), noises)).all()


@pytest.mark.parametrize("begin", [1, 6, 9])
def test_ddim_begins_in_the_middle_as_diffusers_does(begin):
    assert_equal_trajectories(DDIM, 10, begin=begin)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_0_to_1_is_refused(eta):
    with pytest.raises(ValueError, match="eta is .*expected a number from 0 to 1"):
        make_sampler(DDIM, 5, eta=eta)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_epsilon_at_zero_terminal_snr_is_refused_where_the_last_timestep_is_visited(name):
    config = DDIM | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(ValueError, match="prediction_type 'epsilon' says nothing about the picture"):
        make_sampler(config, 10, name=name)
    make_sampler(config | {"timestep_spacing": "leading"}, 10, name=name)
    make_sampler(config, 10, name=name, begin=1)
