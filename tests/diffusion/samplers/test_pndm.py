"""PNDM and PLMS against diffusers' PNDMScheduler."""

from __future__ import annotations

import numpy as np
import pytest

from flaxdream.diffusion.samplers import make_sampler
from tests.diffusion.samplers.twin import (
    COSINE,
    LINEAR,
    STABLE_DIFFUSION,
    STEPS,
    assert_equal_trajectories,
    normal,
    trajectory,
)

PNDM = STABLE_DIFFUSION | {"_class_name": "PNDMScheduler"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_plms_follows_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(PNDM | {"timestep_spacing": spacing, "skip_prk_steps": True}, steps)


@pytest.mark.parametrize("steps", [4, 5, 10, 25, 50])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_runge_kutta_steps_follow_diffusers_in_every_spacing(spacing, steps):
    assert_equal_trajectories(PNDM | {"timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    "options",
    [LINEAR, COSINE, {"set_alpha_to_one": True}, {"steps_offset": 1}, {"prediction_type": "v_prediction"}],
)
@pytest.mark.parametrize("steps", [4, 20])
def test_pndm_follows_diffusers_in_every_option(options, skip, steps):
    # v of the cosine schedule's 4 steps: the first one stretches the sample and its rounding 30 times.
    assert_equal_trajectories(PNDM | options | {"skip_prk_steps": skip}, steps, cancels=options == COSINE)


def test_ten_steps_make_eleven_calls_or_nineteen_with_runge_kutta():
    plms = make_sampler(PNDM, 10, skip_prk_steps=True)
    assert plms.timesteps.tolist() == [900, 800, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert len(make_sampler(PNDM, 10).timesteps) == 4 * 3 + 7


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewer_than_four_runge_kutta_steps_are_refused(steps):
    with pytest.raises(ValueError, match="need 4 or more. Use more, or set skip_prk_steps"):
        make_sampler(PNDM, steps)


@pytest.mark.parametrize("skip, steps", [(True, 10), (False, 10)])
@pytest.mark.parametrize("begin", [1, 2, 3, 5, 9])
def test_a_run_from_the_middle_ends_near_the_one_from_the_start(begin, skip, steps):
    # A model whose eps is the true one for a picture of one value: every step of every order is then exact.
    config = PNDM | {"skip_prk_steps": skip, "set_alpha_to_one": True}
    eps = normal(1)
    sampler = make_sampler(config, steps, begin=begin)
    x = np.asarray(sampler.add_noise(np.full_like(eps, 0.5), eps))
    state = sampler.init(x)
    for i in sampler.calls:
        state = sampler.step(state, i, eps, None)
    np.testing.assert_allclose(state.x, 0.5, atol=5e-6)


def test_sample_prediction_is_refused_with_what_is_supported():
    with pytest.raises(ValueError, match="prediction_type='sample' is not supported. Supported: 'epsilon', 'v_pred"):
        make_sampler(PNDM, 10, prediction_type="sample")


def test_the_whole_run_of_a_constant_model_is_finite():
    noises = [normal(1)] * 30
    assert np.isfinite(trajectory(make_sampler(PNDM, 10), normal(0), noises)).all()
