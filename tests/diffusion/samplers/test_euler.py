"""Euler and Euler ancestral against diffusers' schedulers."""

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
    model,
    normal,
)

EULER = STABLE_DIFFUSION | {"_class_name": "EulerDiscreteScheduler"}
ANCESTRAL = STABLE_DIFFUSION | {"_class_name": "EulerAncestralDiscreteScheduler"}
RESPACED = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("config", [EULER, ANCESTRAL], ids=["euler", "ancestral"])
def test_euler_follows_diffusers_in_every_spacing(config, spacing, steps):
    assert_equal_trajectories(config | {"timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("respaced", RESPACED)
@pytest.mark.parametrize(
    "options",
    [
        *({}, COSINE, {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}),
        *({"interpolation_type": "log_linear"}, {"final_sigmas_type": "sigma_min"}),
        {"sigma_min": 0.05, "sigma_max": 11.0},
        {"timestep_type": "continuous", "prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {"interpolation_type": "log_linear", "timestep_type": "continuous", "prediction_type": "v_prediction"},
    ],
)
@pytest.mark.parametrize("steps", [1, 12])
def test_euler_follows_diffusers_in_every_option(options, respaced, steps):
    assert_equal_trajectories(EULER | options | respaced, steps)


@pytest.mark.parametrize(
    "churn",
    [{"s_churn": 3.0}, {"s_churn": 1e9, "s_noise": 1.02}, {"s_churn": 8.0, "s_tmin": 0.4, "s_tmax": 5.0}],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [12])
def test_churned_euler_follows_diffusers(churn, prediction, steps):
    assert_equal_trajectories(EULER | {"prediction_type": prediction}, steps, **churn)
    twin = Twin(EULER, steps, **churn)
    twin.trajectory(normal(0), [normal(1)] * steps)
    assert twin.drew == np.flatnonzero(make_sampler(EULER, steps, **churn).plan.coefficients.noise).tolist()


@pytest.mark.parametrize(
    "options",
    [
        *(LINEAR, COSINE, {"prediction_type": "v_prediction"}, {"steps_offset": 1, "timestep_spacing": "leading"}),
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    ],
)
@pytest.mark.parametrize("steps", [2, 20])
def test_ancestral_euler_follows_diffusers_in_every_option(options, steps):
    assert_equal_trajectories(ANCESTRAL | options, steps)


def test_ancestral_euler_draws_noise_in_every_step():
    twin = Twin(ANCESTRAL, 5)
    twin.trajectory(normal(0), [normal(1)] * 5)
    assert twin.drew == [0, 1, 2, 3, 4]
    assert make_sampler(ANCESTRAL, 5).needs_noise


def test_ancestral_euler_of_a_sample_model_equals_that_of_the_same_model_giving_eps():
    # diffusers has no twin of this one.
    by_eps = make_sampler(ANCESTRAL, 10)
    by_x0 = make_sampler(ANCESTRAL, 10, prediction_type="sample")
    states = [by_eps.init(normal(0) * 14.6)] * 2
    for i in by_eps.calls:
        x, sigma, t = states[0].x, by_eps.plan.noise[i], by_eps.timesteps[i]
        eps = model(by_eps.model_input(states[0], i), t)
        states = [
            by_eps.step(states[0], i, eps, normal(1, i)),
            by_x0.step(states[1], i, x - sigma * eps, normal(1, i)),
        ]
    np.testing.assert_allclose(states[0].x, states[1].x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [EULER, ANCESTRAL], ids=["euler", "ancestral"])
@pytest.mark.parametrize("begin", [1, 9])
def test_euler_begins_in_the_middle_as_diffusers_does(config, begin):
    assert_equal_trajectories(config, 10, begin=begin)


def test_first_noise_has_the_largest_sigma_or_with_leading_spacing_a_little_more():
    linspace, leading = (make_sampler(EULER, 10, timestep_spacing=spacing) for spacing in ("linspace", "leading"))
    assert linspace.init_noise_sigma == pytest.approx(14.6146, rel=1e-5)
    assert leading.init_noise_sigma == pytest.approx((leading.plan.noise[0] ** 2 + 1) ** 0.5, rel=1e-6)
