"""Heun against diffusers' HeunDiscreteScheduler."""

from __future__ import annotations

import pytest

from flaxdream.diffusion.samplers import make_sampler
from tests.diffusion.samplers.twin import COSINE, LINEAR, STABLE_DIFFUSION, STEPS, assert_equal_trajectories

HEUN = STABLE_DIFFUSION | {"_class_name": "HeunDiscreteScheduler"}
RESPACED = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_heun_follows_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(HEUN | {"timestep_spacing": spacing, "steps_offset": 1}, steps)


# What cancels here is (x - x0) / sigma, at a sigma that is small against the step before it.
@pytest.mark.parametrize("respaced", RESPACED)
@pytest.mark.parametrize(
    "options, cancels",
    [
        *((LINEAR, False), (COSINE, False), ({"sigma_min": 0.05, "sigma_max": 11.0}, False)),
        *(({"prediction_type": "v_prediction"}, True), ({"prediction_type": "sample"}, True)),
        *(({"clip_sample": True}, True), ({"clip_sample": True, "clip_sample_range": 2.0}, True)),
    ],
)
@pytest.mark.parametrize("steps", [12])
def test_heun_follows_diffusers_in_every_option(options, cancels, respaced, steps):
    assert_equal_trajectories(HEUN | options | respaced, steps, cancels=cancels)


def test_heun_has_its_own_betas_for_a_config_without_them():
    assert_equal_trajectories({"_class_name": "HeunDiscreteScheduler"}, 5)
    assert make_sampler({"_class_name": "HeunDiscreteScheduler"}, 5).options.beta_end == 0.012


def test_every_timestep_but_the_first_is_asked_for_twice():
    assert make_sampler(HEUN, 3).timesteps.tolist() == [999.0, 499.5, 499.5, 0.0, 0.0]


@pytest.mark.parametrize("begin", [1, 9])
def test_heun_begins_in_the_middle_as_diffusers_does(begin):
    sampler = make_sampler(HEUN, 10, begin=begin)
    assert sampler.calls == range(2 * begin, 19)
    assert_equal_trajectories(HEUN, 10, begin=begin)
